"""A Label Studio that only knows tokens, projects, backends and webhooks; it answers in the words of the real 1.23.2.

Called by: tests/unit/doctor. What the real one says is tested in tests/services/test_doctor.py.
Must not import: anything of ours; it stands for the other side of the protocol.
Example: with FakeLabelStudio.start() as fake: fake.personal_token, fake.add_project(title="Street", backends=[...])
"""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

OWNER = "owner@example.org"
LEGACY_IS_OFF = (
    "Authentication token no longer valid: legacy token authentication has been disabled for this organization"
)
NO_CREDENTIALS = "Authentication credentials were not provided."
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="circle"/></RectangleLabels></View>'
)


def make_jwt(token_type: str, *, lives_s: float, number: int = 1) -> str:
    """A token of that type; its signature is no signature."""
    claims = {"token_type": token_type, "exp": int(time.time() + lives_s), "jti": str(number)}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


class FakeLabelStudio:
    """A running fake. Change its fields to make it another one."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.personal_token = make_jwt("refresh", lives_s=10**9)
        self.access_token = make_jwt("access", lives_s=300)
        self.legacy_token = "5cc2214442b9bee2fba1d703fa96c38d923e924c"
        self.legacy_enabled = False
        self.projects: list[dict] = []
        self.backends: dict[int, list[dict]] = {}
        self.webhooks: dict[int, list[dict]] = {}

    @classmethod
    def start(cls) -> "FakeLabelStudio":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.fake = fake = cls(server)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return fake

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_project(
        self,
        backend_url: str,
        *,
        state: str = "CO",
        title: str = "Street",
        label_config: str = LABEL_CONFIG,
        **row: object,
    ) -> None:
        """A project with one backend and, as Label Studio does, its webhook."""
        project_id = len(self.projects) + 1
        self.projects.append({"id": project_id, "title": title, "label_config": label_config})
        usual = {"id": project_id, "url": backend_url, "state": state, "auth_method": "NONE", "error_message": None}
        self.backends[project_id] = [usual | row]
        self.webhooks[project_id] = [{"url": f"{backend_url}/webhook", "is_active": True, "headers": {}}]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "FakeLabelStudio":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, path: str, query: dict, authorization: str) -> tuple[int, object]:
        if path == "/api/version":
            return 200, {"release": "1.23.2"}
        refusal = self._refuse(authorization)
        if refusal:
            return 401, {"id": "2a9adbd8", "status_code": 401, "detail": refusal}
        if path == "/api/projects/":
            return 200, {"count": len(self.projects), "results": self.projects}
        project_id = int(query.get("project", ["0"])[0])
        if path == "/api/ml" and self.backends.get(project_id) == "broken":
            return 500, {"status_code": 500, "detail": "'list' object has no attribute 'get'"}
        found = {"/api/current-user/whoami": {"email": OWNER}, "/api/ml": self.backends.get(project_id),
                 "/api/webhooks/": self.webhooks.get(project_id)}  # fmt: skip
        return 200, found[path]

    def refresh(self, token: str) -> tuple[int, object]:
        if token == self.personal_token:
            return 200, {"access": self.access_token}
        return 401, {"status_code": 401, "detail": "Token is invalid"}

    def _refuse(self, authorization: str) -> str:
        if authorization == f"Bearer {self.access_token}":
            return ""
        if not authorization.startswith("Token "):
            return NO_CREDENTIALS
        if authorization != f"Token {self.legacy_token}":
            return "Invalid token."
        return "" if self.legacy_enabled else LEGACY_IS_OFF


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self._send(*self.server.fake.answer(parts.path, parse_qs(parts.query), self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.server.fake.refresh(body["refresh"]))

    def _send(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The default writes to stderr, which would mix with the test output."""
