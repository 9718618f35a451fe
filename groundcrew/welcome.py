"""What a newcomer reads when `groundcrew up` is ready: what runs, what to paste into Label Studio, what is missing.

Called by: groundcrew.cli. Must not import: backend, worker, torch.
Example: `print_welcome(read_settings(), "http://127.0.0.1:9090")`
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import click

from contract.registry import Registry
from contract.settings import Settings
from groundcrew.checks.connection import is_local

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def print_welcome(settings: Settings, api_url: str) -> None:
    """Print it to standard output. `api_url` is where the API listens. Raises UnknownVersion."""
    click.echo("\n".join(welcome(settings, api_url)))


def welcome(settings: Settings, api_url: str) -> list[str]:
    """The lines of the welcome; secrets are named, never shown."""
    shown_url = _reachable(api_url)
    return ["", *_model(settings), "", *_connect(settings, shown_url), *_guards(settings, shown_url),
            *_missing(settings), "", "Ctrl-C stops it; `groundcrew doctor` checks all of this.", ""]  # fmt: skip


def _model(settings: Settings) -> Iterator[str]:
    version = Registry(settings).base
    yield f"Groundcrew is ready with the model {version.ref}."
    if not settings.config_file:
        yield "A demo model that knows coloured shapes only; for photos set CONFIG_FILE, CHECKPOINT_FILE, LANG_MODEL."


def _connect(settings: Settings, shown_url: str) -> Iterator[str]:
    yield "In Label Studio open your project's Settings > Model > Connect Model and enter"
    yield "    Name                         Groundcrew"
    secret = "/s/<WEBHOOK_SECRET>" if settings.webhook_secret.get_secret_value() else ""
    yield f"    Backend URL                  {shown_url}{secret}"
    if settings.basic_auth_user:
        yield f"    Authentication method        Basic Authentication: {settings.basic_auth_user}, your BASIC_AUTH_PASS"
    else:
        yield "    Authentication method        No Authentication"
    yield "    Interactive preannotations   on, to find boxes for a prompt you type"


def _guards(settings: Settings, shown_url: str) -> Iterator[str]:
    """Label Studio's guards are told about where they would refuse this address."""
    if is_local(shown_url):
        yield ""
        yield "Label Studio takes a local address only when it was started with"
        yield "    ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false label-studio start"


def _missing(settings: Settings) -> Iterator[str]:
    unset = [name for name, value in (("LABEL_STUDIO_URL", settings.label_studio_url),
             ("LABEL_STUDIO_API_KEY", settings.label_studio_api_key.get_secret_value())) if not value]  # fmt: skip
    if not unset:
        return
    yield ""
    yield f"Not set: {' and '.join(unset)}."
    yield "So far boxes reach a task only when someone opens it, and images uploaded to Label Studio cannot be read."
    yield "Make a key under Account & Settings > Personal Access Token, and start `groundcrew up` again with both set."


def _reachable(api_url: str) -> str:
    """An address to paste. For an API that listens everywhere it is that of the network card that leads outside.

    Not the machine's name: Label Studio refuses webhooks to names without a dot.
    """
    parts = urlsplit(api_url)
    if parts.hostname not in EVERYWHERE:
        return api_url
    return urlunsplit(parts._replace(netloc=f"{_own_address()}:{parts.port}"))


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for examples; connecting UDP sends nothing
        except OSError:  # no network but ourselves
            return "127.0.0.1"
        return str(probe.getsockname()[0])
