"""Who may call: Basic auth or a token on every route but /health, and a secret for webhooks.

Called by: backend.app, before each request, so that a new route is guarded without doing anything for it.
Must not import: Celery, redis. Label Studio sends Basic auth with its own calls, but nothing at all with the webhook it
creates by itself, at <Backend URL>/webhook. So the secret may be part of the Backend URL: http://host:9090/s/<secret>.
Example: `check_access(settings, request)` raises Unauthorized.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Request
from pydantic import SecretStr

from contract.errors import Unauthorized
from contract.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SECRET_HEADER = "X-Groundcrew-Secret"  # noqa: S105 - the header's name
OPEN_ROUTES = frozenset({"/health"})  #: Label Studio asks it without credentials
SECRET_PREFIX = "/s/"  # noqa: S105 - where the secret stands in a path
_FROM_PATH = "groundcrew.path_secret"


class SecretPath:
    """Takes /s/<secret> off the front of a path, as a proxy's prefix is taken off, and keeps the secret for auth."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(SECRET_PREFIX):
            secret, slash, rest = path[len(SECRET_PREFIX) :].partition("/")
            environ[_FROM_PATH] = secret
            environ["SCRIPT_NAME"] = f"{environ.get('SCRIPT_NAME', '')}{SECRET_PREFIX}{secret}"
            environ["PATH_INFO"] = slash + rest
        return self._app(environ, start_response)


def check_access(settings: Settings, request: Request) -> None:
    """Raises Unauthorized."""
    if request.path in OPEN_ROUTES or _has_basic(settings, request) or _has_token(settings, request):
        return
    guarded = bool(settings.basic_auth_user or settings.api_token.get_secret_value())
    if request.path == "/webhook" or request.path.startswith("/webhook/"):
        if _has_secret(settings, request) or not (guarded or settings.webhook_secret.get_secret_value()):
            return
    elif not guarded:
        return
    raise Unauthorized


def _has_basic(settings: Settings, request: Request) -> bool:
    given = request.authorization
    if not settings.basic_auth_user or given is None or given.type != "basic":
        return False
    user = _same(str(given.username), SecretStr(settings.basic_auth_user))
    password = _same(str(given.password), settings.basic_auth_pass)
    return user and password


def _has_token(settings: Settings, request: Request) -> bool:
    given = request.authorization
    return given is not None and given.type == "bearer" and _same(str(given.token or ""), settings.api_token)


def _has_secret(settings: Settings, request: Request) -> bool:
    shown = (
        request.headers.get(SECRET_HEADER, ""),
        request.path[len("/webhook/") :],
        # WSGI gives a path as bytes in Latin-1
        str(request.environ.get(_FROM_PATH, "")).encode("latin-1").decode("utf-8", "replace"),
    )
    return any([_same(secret, settings.webhook_secret) for secret in shown])


def _same(given: str, expected: SecretStr) -> bool:
    """In constant time, so that answers do not tell how much of a guess is right. An empty secret is none."""
    wanted = expected.get_secret_value()
    return bool(wanted) and hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
