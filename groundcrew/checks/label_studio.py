"""Label Studio as we reach it: does it answer, and does it take our token?

Called by: groundcrew.doctor. Must not import: label_studio_sdk, backend, worker.
Every remedy here was tried on Label Studio 1.23.2.
Example: `check_token(patient).message == "personal access token of me@example.org"`
"""

from __future__ import annotations

import time

import requests

from groundcrew.checks.access import LEGACY_IS_OFF, Access
from groundcrew.checks.check import Check, ok, problem, skipped, warning
from groundcrew.checks.patient import Patient

TIMEOUT_S = 10.0
SOON_S = 7 * 24 * 3600
HOW_TO_MAKE_ONE = (
    "In Label Studio open Account & Settings > Personal Access Token, create one, and set LABEL_STUDIO_API_KEY to it."
)
HOW_TO_ENABLE = (
    "Use a personal access token (Account & Settings > Personal Access Token), or let an owner turn on legacy tokens "
    "under Organization > API Tokens Settings."
)


def check_label_studio(patient: Patient) -> Check:
    """Is it set, and does it answer?"""
    url = patient.settings.label_studio_url
    if not url:
        return warning("label_studio", "LABEL_STUDIO_URL is not set: nothing can be written to it",
                       "Set LABEL_STUDIO_URL to its address, for example http://localhost:8080.")  # fmt: skip
    try:
        answer = requests.get(f"{url}/api/version", timeout=TIMEOUT_S)
        release = answer.json()["release"]
    except (requests.JSONDecodeError, KeyError, TypeError):
        return problem("label_studio", f"what answers at {url} is not Label Studio", "Correct LABEL_STUDIO_URL.")
    except requests.RequestException as error:
        return problem("label_studio", f"nothing answers at {url} ({type(error).__name__})",
                       "Start Label Studio, or correct LABEL_STUDIO_URL.")  # fmt: skip
    return ok("label_studio", f"Label Studio {release} answers at {url}")


def check_token(patient: Patient) -> Check:
    """Which kind of token is it, and is it accepted?"""
    if not patient.settings.label_studio_api_key.get_secret_value():
        missing = "LABEL_STUDIO_API_KEY is not set: boxes reach a task only when someone opens it"
        return warning("token", missing, HOW_TO_MAKE_ONE)
    if patient.access is None:
        return skipped("token", "needs a Label Studio that answers")
    return judge_access(patient.access, now_s=time.time())


def judge_access(access: Access, *, now_s: float) -> Check:
    """The check of a token that was tried at `now_s` (Unix time)."""
    judge = {"malformed": _judge_malformed, "access": _judge_short_lived, "legacy": _judge_legacy}
    return judge.get(access.kind, _judge_personal)(access, now_s)


def _judge_malformed(access: Access, now_s: float) -> Check:
    return problem("token", "LABEL_STUDIO_API_KEY holds spaces, line breaks or letters outside ASCII",
                   "Copy the token once more, without anything around it.")  # fmt: skip


def _judge_short_lived(access: Access, now_s: float) -> Check:
    left_s = (access.expires_at_s or now_s) - now_s
    when = f"expires in {left_s:.0f} s" if left_s > 0 else "has expired"
    return problem("token", f"LABEL_STUDIO_API_KEY is an access token, which {when}", HOW_TO_MAKE_ONE)


def _judge_legacy(access: Access, now_s: float) -> Check:
    if access.accepted:
        return ok("token", f"legacy token of {access.user}")
    if LEGACY_IS_OFF in access.detail:
        return problem("token", "this is a legacy token, and Label Studio has legacy tokens turned off", HOW_TO_ENABLE)
    return problem("token", f"Label Studio does not know this token ({access.detail})", HOW_TO_MAKE_ONE)


def _judge_personal(access: Access, now_s: float) -> Check:
    if access.expires_at_s is not None and access.expires_at_s <= now_s:
        return problem("token", "this personal access token has expired", HOW_TO_MAKE_ONE)
    if not access.accepted:
        return problem("token", "Label Studio refuses this personal access token: it was revoked, or belongs to "
                       f"another Label Studio ({access.detail})", HOW_TO_MAKE_ONE)  # fmt: skip
    if access.expires_at_s is not None and access.expires_at_s - now_s < SOON_S:
        when = f"expires in {(access.expires_at_s - now_s) / 86400:.1f} days"
        return warning("token", f"personal access token of {access.user}, which {when}", HOW_TO_MAKE_ONE)
    return ok("token", f"personal access token of {access.user}")
