"""Takes secrets out of text that will be kept or shown: log lines, reasons in job records, dead letters.

Called by: contract.logs (every line), worker.tasks (errors we do not know). Must not import: Flask, Celery, torch.
Two nets: the values that this process was configured with, and whatever looks like a credential.
Example: `redact("GET https://bucket/a.png?X-Amz-Signature=ab12 failed") -> "GET https://bucket/a.png?*** failed"`
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from contract.settings import Settings

HIDDEN = "***"
SHORTEST_SECRET = 5  #: replacing shorter ones would garble whole logs, and hide nothing that cannot be guessed
_NAMES = r"(?:access_|api_|auth_?|refresh_)?(?:token|key)|pass(?:word|wd)?|secret|signature|sig|credentials?"
_PATTERNS = (
    # user:password@ in an address
    (re.compile(r"(\w://)[^/\s@\"']+@"), rf"\1{HIDDEN}@"),
    # all of a query: presigned addresses carry their signature there
    (re.compile(r"(\w://[^\s\"'<>?]+)\?[^\s\"'<>]+"), rf"\1?{HIDDEN}"),
    # an Authorization header
    (re.compile(r"\b(Bearer|Basic|Token)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1\2{HIDDEN}"),
    # token=..., "password": "...", X-Amz-Signature=...
    (re.compile(rf"((?:{_NAMES})[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;)}}]+", re.I), rf"\1{HIDDEN}"),
    # a JSON Web Token, which Label Studio's keys are
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    # our own paths that may hold WEBHOOK_SECRET
    (re.compile(r"(/webhook/|/s/)[^/\s\"'?]{5,}"), rf"\1{HIDDEN}"),
    # an image within its address: not secret as such, but megabytes of somebody's picture
    (re.compile(r"(data:[\w/+.;=-]{0,99},)[^\s\"']{99,}", re.I), rf"\1{HIDDEN}"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without `secrets`, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Every secret value of the settings, the password within REDIS_URL included; the longest first."""
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    values += [unquote(urlsplit(url).password or "") for url in (settings.redis_url, settings.model_dir)]
    return tuple(sorted((value for value in set(values) if len(value) >= SHORTEST_SECRET), key=len, reverse=True))


class RedactingFormatter(logging.Formatter):
    """What another formatter makes of a record, tracebacks included, without secrets."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record), self._secrets)
