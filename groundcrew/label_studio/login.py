"""Signs in to Label Studio without a browser and makes the personal access token that every API call needs.

Called by: groundcrew/demo.py and tests/services/conftest.py.
Must not import: backend, worker.
Example: token = make_access_token(server.url, ADMIN_EMAIL, ADMIN_PASSWORD)
"""

import time

import requests
from requests.auth import AuthBase

from contract.errors import GroundcrewError

TIMEOUT_S = 30.0
#: Label Studio's access tokens live 300 s.
_REFRESH_AFTER_S = 240.0


class LoginError(GroundcrewError):
    """Label Studio refused the sign-in or the token; the message holds its answer."""


def make_access_token(url: str, email: str, password: str) -> str:
    """A new personal access token of that user: valid for years, shown once, one alive a user.

    Raises LoginError for a wrong password, or when the user already has a token (revoke it under Account & Settings).
    """
    with requests.Session() as session:
        _sign_in(session, url, email, password)
        answer = session.post(
            f"{url}/api/token/", headers={"X-CSRFToken": session.cookies["csrftoken"]}, timeout=TIMEOUT_S
        )
    if answer.status_code != requests.codes.created:
        raise LoginError(f"Label Studio made no access token for {email}: {answer.status_code} {answer.text[:500]}")
    return str(answer.json()["token"])


def _sign_in(session: requests.Session, url: str, email: str, password: str) -> None:
    page = f"{url}/user/login/"
    session.get(page, timeout=TIMEOUT_S).raise_for_status()
    form = {"email": email, "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
    answer = session.post(page, data=form, allow_redirects=False, timeout=TIMEOUT_S)
    # A wrong password shows the form again with 200; only success redirects.
    if answer.status_code != requests.codes.found:
        raise LoginError(f"Label Studio did not accept the password of {email} ({answer.status_code})")


class PersonalToken(AuthBase):
    """Signs requests with a personal access token: exchanges it for a short-lived one and renews that in time."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._access = ""
        self._fetched_at_s = float("-inf")

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if time.monotonic() - self._fetched_at_s >= _REFRESH_AFTER_S:
            self._refresh()
        request.headers["Authorization"] = f"Bearer {self._access}"
        return request

    def _refresh(self) -> None:
        answer = requests.post(f"{self._url}/api/token/refresh/", json={"refresh": self._token}, timeout=TIMEOUT_S)
        if answer.status_code != requests.codes.ok:
            raise LoginError(f"Label Studio refused the access token: {answer.status_code} {answer.text[:500]}")
        self._access = str(answer.json()["access"])
        self._fetched_at_s = time.monotonic()
