"""What keeps another site from pressing our buttons, and foreign scripts from running in our page.

Called by: backend.app (each request), backend.pages (forms, headers). Must not import: redis, Celery.
Who may call at all is decided by backend.auth before. But a browser sends its credentials along whichever site asks, so
a form must carry the token of this browser's cookie (double submit; SameSite=Strict), and come from our own pages.
Example: `check_form(request)` raises ForgedRequest.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from flask import Request, Response

from contract.errors import ForgedRequest

COOKIE = "gc_csrf"
FIELD = "csrf"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def token_of(request: Request) -> str:
    """The browser's token, or a new one, which set_token() has to give it."""
    return request.cookies.get(COOKIE) or secrets.token_urlsafe(32)


def set_token(response: Response, token: str, *, secure: bool) -> None:
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=secure, path="/")


def check_site(request: Request) -> None:
    """Raises ForgedRequest where a browser posts for a page that is not ours. Programs say nothing of the kind."""
    asked = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.method not in ("GET", "HEAD", "OPTIONS") and not _from_our_page(*asked, request.host):
        raise ForgedRequest


def check_form(request: Request) -> None:
    """Raises ForgedRequest, unless the form is one of ours, sent by the browser that we gave it to."""
    cookie, field = request.cookies.get(COOKIE, ""), request.form.get(FIELD, "")
    if not cookie or not hmac.compare_digest(cookie.encode(), field.encode()):
        raise ForgedRequest


def _from_our_page(site: str | None, origin: str | None, host: str) -> bool:
    """The browser's own word counts most: behind a proxy the Host may differ from what the browser calls us."""
    if site is not None:
        return site == "same-origin"
    return origin is None or urlsplit(origin).netloc == host
