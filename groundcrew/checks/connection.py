"""The other direction: does Label Studio reach us, and does it tell us about new tasks?

Called by: groundcrew.doctor, groundcrew.welcome. Must not import: backend, worker.
Label Studio does not say which of its guards is on. What it does was tried on 1.23.2: with ML_BLOCK_LOCAL_IP on, a
backend with a local address is refused (403), and one that was connected earlier is Disconnected, without a request
and without a reason; with that one off and SSRF_PROTECTION_ENABLED on, it is Connected and its webhook is missing.
Example: `judge_link(link, patient.settings)` -> a Check; `is_local("http://10.0.0.7:9090")` -> True
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from contract.settings import Settings
from groundcrew.checks.check import Check, ok, problem, skipped, warning, worst
from groundcrew.checks.patient import Patient
from groundcrew.checks.projects import Link, Webhook

GUARDS = (
    "ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false (or USE_DEFAULT_BANNED_SUBNETS=false alone) in its "
    "environment"
)
CONNECTED = ("CO", "TR", "PR")


def check_connection(patient: Patient) -> Check:
    """Is a project connected, and does Label Studio reach us?"""
    if patient.projects is None or patient.links is None:
        return skipped("connection", "needs a token that Label Studio accepts")
    refused = [f"{project.name}: {project.refusal}" for project in patient.projects if project.refusal]
    if refused:
        reasons = "; ".join(refused)
        return warning("connection", f"some projects do not list their ML backends: {reasons}",
                       "Look at Settings > Model of that project: one backend misleads Label Studio.")  # fmt: skip
    if not patient.links:
        return warning("connection", "no project is connected to this backend", _how_to_connect(patient.api_url))
    return _summary("connection", [judge_state(link, patient.settings) for link in patient.links], "connected")


def check_webhooks(patient: Patient) -> Check:
    """Does each connected project tell us about its new tasks?"""
    connected = [link for link in patient.links or () if link.backend.state in CONNECTED]
    if not connected:
        return skipped("webhooks", "needs a connected project")
    return _summary("webhooks", [judge_webhook(link, patient.settings) for link in connected], "tells of new tasks")


def _summary(name: str, checks: Sequence[Check], what: str) -> Check:
    """The worst of all projects; how many are fine otherwise."""
    chosen = worst(checks)
    bad = sum(check.status in ("problem", "warning") for check in checks)
    if not bad:
        return ok(name, f"{what}: {', '.join(check.message for check in checks)}")
    more = f" (and {bad - 1} more)" if bad > 1 else ""
    return chosen._replace(message=chosen.message + more)


def judge_state(link: Link, settings: Settings) -> Check:
    """What Label Studio says of one backend, compared with what we find at its address."""
    name, backend, where = "connection", link.backend, link.project.name
    if backend.state in CONNECTED:
        return ok(name, where)
    if settings.basic_auth_user and backend.auth_method == "NONE":
        return problem(name, f"{where} is connected without Basic authentication, which this backend asks for",
                       "Edit the backend in Settings > Model: Basic Authentication, with BASIC_AUTH_USER and its "
                       "password.")  # fmt: skip
    if link.answerer == "nobody":
        return problem(name, f"{where} is connected to {backend.url}, where nobody answers",
                       "Start `groundcrew up` with that port, or correct the address in Settings > Model.")  # fmt: skip
    if backend.error_message:
        return problem(name, f"{where}: Label Studio reports: {backend.error_message[:300]}",
                       "Look at the log of the API for the reason.")  # fmt: skip
    return _unreached(link)


def _unreached(link: Link) -> Check:
    message = f"{link.project.name} is connected to {link.backend.url}, which answers here but not to Label Studio"
    if is_local(link.backend.url):
        return problem("connection", message, f"Start Label Studio with {GUARDS}; if it runs in a container, connect "
                       "an address of this machine that is not localhost.")  # fmt: skip
    return problem("connection", message, "Let Label Studio's machine reach that address: firewall, proxy, DNS.")


def judge_webhook(link: Link, settings: Settings) -> Check:
    """Is there an active webhook to us that we would accept?"""
    where, base = link.project.name, link.backend.url.rstrip("/")
    ours = [hook for hook in link.project.webhooks if hook.url.startswith(f"{base}/webhook") and hook.is_active]
    if not ours:
        return problem("webhooks", f"{where} has no active webhook to {base}/webhook: new tasks are not noticed",
                       _how_to_get_webhook(base))  # fmt: skip
    secret = settings.webhook_secret.get_secret_value()
    if secret and not any(_carries(hook, secret) for hook in ours):
        return problem("webhooks", f"the webhook of {where} does not carry WEBHOOK_SECRET and is refused",
                       "In Settings > Webhooks give it the header X-Groundcrew-Secret with that secret, or connect "
                       "Label Studio to the Backend URL with /s/ and the secret behind it.")  # fmt: skip
    return ok("webhooks", where)


def _carries(hook: Webhook, secret: str) -> bool:
    in_path = hook.url.endswith((f"/webhook/{secret}", f"/s/{secret}/webhook"))
    return in_path or secret in hook.headers.values()


def _how_to_get_webhook(base: str) -> str:
    host = urlsplit(base).hostname or ""
    if "." not in host and ":" not in host and host != "localhost":
        return (f'Label Studio makes no webhook for a host name without a dot: connect "{host}" under a name with one '
                f"(for example a network alias {host}.local), or under its address.")  # fmt: skip
    if is_local(base):
        return f"Start Label Studio with {GUARDS}, then remove the backend in Settings > Model and connect it again."
    return f"Remove the backend in Settings > Model and connect it again, or add {base}/webhook in Settings > Webhooks."


def _how_to_connect(api_url: str) -> str:
    how = f"In the project's Settings > Model choose Connect Model and enter {api_url}"
    return f"{how}; Label Studio takes a local address only with {GUARDS}." if is_local(api_url) else f"{how}."


def is_local(url: str) -> bool:
    """Whether Label Studio's guards refuse the address: loopback, private, link-local, or a name that leads there."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:  # a name that only Label Studio's network knows, such as a docker service
        return "." not in host
    return any(not ipaddress.ip_address(str(row[4][0]).partition("%")[0]).is_global for row in found)
