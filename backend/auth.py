"""Who may call: Basic auth on every route but /health, and a secret for webhooks.

Called by: backend.app, before each request. Must not import: Celery, redis.
Label Studio sends Basic auth with its own calls, but none with the webhook it creates by itself. So /webhook takes
Basic, the secret as header or last part of the path, or, where no WEBHOOK_SECRET is set, anyone.
Example: `check_access(settings, request)` raises Unauthorized.
"""

from __future__ import annotations

import hmac

from flask import Request

from contract.errors import Unauthorized
from contract.settings import Settings

SECRET_HEADER = "X-Groundcrew-Secret"  # noqa: S105 - the header's name


def check_access(settings: Settings, request: Request) -> None:
    """Raises Unauthorized."""
    if request.path == "/health" or _has_basic(settings, request):
        return
    secret = settings.webhook_secret.get_secret_value()
    if request.path == "/webhook" or request.path.startswith("/webhook/"):
        if not secret or _has_secret(secret, request):
            return
    elif not settings.basic_auth_user:
        return
    raise Unauthorized


def _has_basic(settings: Settings, request: Request) -> bool:
    given = request.authorization
    if not settings.basic_auth_user or given is None or given.type != "basic":
        return False
    user = _same(str(given.username), settings.basic_auth_user)
    password = _same(str(given.password), settings.basic_auth_pass.get_secret_value())
    return user and password


def _has_secret(secret: str, request: Request) -> bool:
    return _same(request.headers.get(SECRET_HEADER, ""), secret) or _same(request.path[len("/webhook/") :], secret)


def _same(given: str, expected: str) -> bool:
    """In constant time, so that answers do not tell how much of a guess is right."""
    return hmac.compare_digest(given.encode(), expected.encode())
