"""Credentials that `groundcrew up` makes when others can reach its API and nobody has set any. Made once, then kept.

Called by: groundcrew.cli (up). Must not import: backend, worker.
Example: `settings, made = with_credentials(read_settings(api_host="0.0.0.0"), Path(".groundcrew/credentials.json"))`
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from contract.errors import SettingsError
from contract.settings import Settings

USER = "groundcrew"
CREDENTIALS_FILE = Path(".groundcrew/credentials.json")  #: in the working directory, beside the crew's other files
_MADE = ("basic_auth_pass", "webhook_secret")


def with_credentials(settings: Settings, path: Path) -> tuple[Settings, bool]:
    """The same settings, guarded where the API listens beyond this machine, and whether the guard was made just now.

    What the operator has set is left alone. Raises SettingsError when the file cannot be read or written.
    """
    if is_loopback(settings.api_host) or settings.basic_auth_user or settings.api_token.get_secret_value():
        return settings, False
    known = _read(path)
    kept = known or _make(path)
    found = {name: SecretStr(kept[name]) for name in _MADE}
    if settings.webhook_secret.get_secret_value():
        del found["webhook_secret"]
    return settings.model_copy(update={"basic_auth_user": USER, **found}), known is None


def describe_new(settings: Settings, path: Path) -> list[str]:
    """What to write down: shown once, when they are made."""
    secret = settings.webhook_secret.get_secret_value()
    return [
        f"The API listens beyond this machine, so it asks for credentials from now on. Kept in {path}, shown only now:",
        f"    user        {settings.basic_auth_user}",
        f"    password    {settings.basic_auth_pass.get_secret_value()}",
        f"    secret      {secret}",
        f"In Label Studio put /s/{secret} behind the Backend URL, and choose Basic Authentication.",
    ]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> dict[str, str] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(kept[name]) for name in _MADE}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): delete it, and new credentials are made") from None


def _make(path: Path) -> dict[str, str]:
    made = {name: secrets.token_urlsafe(24) for name in _MADE}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(made, file)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror}): set BASIC_AUTH_USER, BASIC_AUTH_PASS and "
                            "WEBHOOK_SECRET instead") from None  # fmt: skip
    return made
