"""Which kind of token LABEL_STUDIO_API_KEY holds, and whether Label Studio accepts it.

Called by: groundcrew.checks.patient, tests. Must not import: label_studio_sdk (it takes seconds to import).
Facts (tried on 1.23.2): a personal access token is a refresh JWT, worthless as a header until exchanged for an access
JWT of 300 s; a legacy token goes as `Token ...` and is refused unless the organization enables it.
Example: `find_access("http://localhost:8080", key).kind == "personal"`
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import requests

TIMEOUT_S = 10.0
LEGACY_IS_OFF = "legacy token authentication has been disabled"  #: part of Label Studio's sentence

Kind = Literal["personal", "access", "legacy", "malformed"]


@dataclass(frozen=True, repr=False)  # a repr in a traceback would show the header
class Access:
    """What Label Studio made of a token."""

    kind: Kind
    accepted: bool
    headers: Mapping[str, str]  #: for further requests; hold the token
    detail: str = ""  #: Label Studio's own words when it refused
    user: str = ""  #: e-mail address of the token's owner
    expires_at_s: float | None = None  #: Unix time; None where the token does not say


def find_access(url: str, token: str) -> Access:
    """Ask Label Studio who the token belongs to. Raises requests.RequestException when it does not answer."""
    kind = kind_of(token)
    expires_at_s = _expiry(token)
    if kind == "malformed":
        return Access(kind, False, {})
    header = f"Token {token}" if kind == "legacy" else f"Bearer {token}"
    if kind == "personal":
        answer = requests.post(f"{url}/api/token/refresh/", json={"refresh": token}, timeout=TIMEOUT_S)
        if not answer.ok:
            return Access(kind, False, {}, _detail(answer), expires_at_s=expires_at_s)
        header = f"Bearer {answer.json()['access']}"
    headers = {"Authorization": header}
    answer = requests.get(f"{url}/api/current-user/whoami", headers=headers, timeout=TIMEOUT_S)
    user = str(answer.json().get("email", "")) if answer.ok else ""
    return Access(kind, answer.ok, headers, "" if answer.ok else _detail(answer), user, expires_at_s)


def kind_of(token: str) -> Kind:
    """Decided by the token's form alone, before it is sent anywhere."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        return "malformed"
    kinds: dict[object, Kind] = {"refresh": "personal", "access": "access"}
    return kinds.get(_claims(token).get("token_type"), "legacy")


def _expiry(token: str) -> float | None:
    expires = _claims(token).get("exp")
    return float(expires) if isinstance(expires, int | float) else None


def _claims(token: str) -> Mapping[str, object]:
    """The middle part of a JWT, whose signature only Label Studio can check; empty for any other text."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _detail(answer: requests.Response) -> str:
    """Label Studio's reason, or else the status."""
    try:
        return f"{answer.status_code}: {answer.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return str(answer.status_code)
