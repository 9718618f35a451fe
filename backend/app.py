"""The Flask app: one factory, one error handler, one id a request.

Called by: backend.wsgi, tests. Must not import: worker, torch.
Errors leave as {"code", "message", "id"} and, for bad input, "field"; never as a traceback, never with a body or token.
Example: `create_app(read_settings()).test_client().get("/health")`
"""

from __future__ import annotations

import logging
import re
import secrets
import time

import redis
from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.auth import SecretPath, check_access
from backend.dispatch import Dispatcher
from backend.models import ModelCards
from backend.pages import Pages
from backend.payloads import LIMIT_BYTES
from backend.routes import Routes
from backend.ui.guard import check_site
from backend.watch import Watch
from contract.errors import BrokerUnavailable, GroundcrewError, Unauthorized
from contract.logs import begin_facts
from contract.meters import REQUESTS
from contract.settings import Settings

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
LONGEST_REASON = 300  #: characters
PROBES = ("/health", "/metrics", "/metrics/outstanding")  #: asked every few seconds: logged at DEBUG only
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def create_app(settings: Settings) -> Flask:
    """The API for these settings. Opens no connection yet, so it starts without Redis.

    Raises:
        SettingsError: PROMPT_MAP_FILE cannot be read.
        UnknownVersion: the model's files are missing.
    """
    app = Flask("groundcrew", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_BYTES
    app.json.ensure_ascii = False  # type: ignore[attr-defined]  # Chinese labels stay legible
    app.wsgi_app = SecretPath(app.wsgi_app)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.before_request(lambda: check_access(settings, request))
    app.before_request(lambda: check_site(request))
    app.after_request(_end)
    app.register_error_handler(Exception, _answer_error)
    parts = settings, ModelCards(settings), Dispatcher(settings), Watch(settings)
    app.register_blueprint(Routes(*parts).blueprint())
    app.register_blueprint(Pages(*parts).blueprint())
    _advise(settings)
    return app


def _advise(settings: Settings) -> None:
    guarded = settings.basic_auth_user or settings.api_token.get_secret_value()
    if guarded and not settings.webhook_secret.get_secret_value():
        log.warning("Label Studio's own webhook shows no credentials, so new tasks will not be noticed: set "
                    "WEBHOOK_SECRET, and connect Label Studio to http://HOST:PORT/s/<secret>")  # fmt: skip


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    g.began_s = time.monotonic()
    begin_facts(request=g.request_id)


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    # The rule, not the path: a path may hold the webhook's secret.
    rule = request.url_rule.rule if request.url_rule else "(unknown)"
    took_s = time.monotonic() - g.began_s
    REQUESTS.observe(took_s, route=rule, status=str(response.status_code))
    level = logging.DEBUG if rule in PROBES else logging.INFO
    log.log(level, "%s %s %d in %.0f ms id=%s", request.method, rule, response.status_code, took_s * 1000, g.request_id)
    return response


def _answer_error(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _answer_http(error)
    if isinstance(error, redis.RedisError):
        log.warning("Redis does not answer: %s id=%s", error, g.request_id)
        error = BrokerUnavailable()
    if not isinstance(error, GroundcrewError):
        log.exception("unexpected %s id=%s", type(error).__name__, g.request_id, exc_info=error)
        return _error(500, "internal_error", "something went wrong here; the log has the details under this id")
    log.info("%s: %s id=%s", error.code, error.message, g.request_id)
    response = _error(error.http_status, error.code, error.message, getattr(error, "field", None))
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Basic realm="groundcrew"'
    if error.retry:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _answer_http(error: HTTPException) -> Response:
    """Flask's own refusals. A redirect, or a header that belongs to the status (Allow), is kept."""
    text = f"the body is larger than {LIMIT_BYTES} bytes" if error.code == 413 else error.description
    response = _error(error.code or 500, error.name.lower().replace(" ", "_"), text or error.name)
    for name, value in error.get_headers():
        if name in ("Allow", "Location"):
            response.headers[name] = value
    return response


def _error(status: int, code: str, message: str, field: str | None = None) -> Response:
    named = {} if field is None else {"field": field}
    response = jsonify({"code": code, "message": message, **named, "id": g.request_id})
    response.status = f"{status} {_reason(message)}"
    return response


def _reason(message: str) -> str:
    """HTTP's reason phrase, which is all of an error that Label Studio shows in its answers and its log."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in message[:LONGEST_REASON])
