"""Label Studio's prediction endpoints and uploads over HTTP, with everything that can go wrong with them.

Called by: benchmarks/faults*.py, tests/services/test_faults.py. Must not import: anything of ours but fakes.
As the real 1.23.2 it has no unique constraint, refuses a whole request for one unknown task, lets access tokens expire,
and so counts what was stored by (task, version): less than once is a loss, more than once a double.
Example: with FaultyLabelStudio.start() as fake: fake.trouble = "429"; fake.stored[(7, "tiny-shapes-1.3fa2c19b")]
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.fakes.label_studio import make_jwt

SLOW_S = 3.0
RETRY_AFTER_S = 2
DRIP_S = 1.0


class FaultyLabelStudio:
    """A running fake. `trouble` is "", "500", "429" or "slow"; stop_listening() makes it unreachable."""

    def __init__(self) -> None:
        self.personal_token = make_jwt("refresh", lives_s=10**9)
        self.trouble = ""
        self.stored: Counter[tuple[int, str]] = Counter()
        self.order: list[int] = []  #: project ids of stored predictions, as they came
        self.unknown_tasks: set[int] = set()  #: deleted ones: a request that names one is refused as a whole
        self.access_lives_s = 300.0
        self.refused_tokens = 0  #: requests with an expired token
        self.before_answer: Callable[[], None] | None = None  #: runs once: stored, but not yet answered
        self.images: dict[str, bytes] = {}
        self._ends_s: dict[str, float] = {}  #: when each access token expires
        self._lock = threading.Lock()
        self._server = _listen(self, 0)
        self.port = self._server.server_port

    @classmethod
    def start(cls) -> FaultyLabelStudio:
        return cls()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop_listening(self) -> None:
        """Connections are refused from now on, and those that are open end unanswered."""
        self._server.away = True
        self._server.shutdown()
        self._server.server_close()

    def listen_again(self) -> None:
        self._server = _listen(self, self.port)

    def forget_tokens(self) -> None:
        """All access tokens end now, whatever they say of themselves."""
        self._ends_s.clear()

    def __enter__(self) -> FaultyLabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_listening()

    # -- what it answers -------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, query: dict[str, list[str]], token: str,
               body: object) -> tuple[int, object]:  # fmt: skip
        if self.trouble == "slow":
            time.sleep(SLOW_S)
        elif self.trouble:
            return int(self.trouble), {"status_code": int(self.trouble), "detail": "in trouble"}
        if path == "/api/token/refresh/":
            return self._refresh()
        if self._ends_s.get(token, 0) < time.time():
            self.refused_tokens += 1
            return 401, {"status_code": 401, "detail": "Given token not valid for any token type"}
        if path.endswith("/import/predictions"):
            return self._import(int(path.split("/")[3]), body)
        if method == "GET" and path == "/api/tasks/":
            return 200, {"tasks": self._tasks(json.loads(query["query"][0])["selectedItems"]["included"])}
        if method == "GET" and path == "/api/predictions/":
            task = int(query["task"][0])
            return (200, self._list(task)) if task not in self.unknown_tasks else (400, {"detail": "Invalid task"})
        return 404, {"status_code": 404, "detail": f"the fake has no {method} {path}"}

    def _refresh(self) -> tuple[int, object]:
        access = make_jwt("access", lives_s=self.access_lives_s, number=len(self._ends_s))
        self._ends_s[access] = time.time() + self.access_lives_s
        return 200, {"access": access}

    def _import(self, project: int, body: object) -> tuple[int, object]:
        predictions = body if isinstance(body, list) else []
        with self._lock:
            if any(row["task"] in self.unknown_tasks for row in predictions):
                return 400, {"status_code": 400, "detail": "Task not found"}
            self.stored.update((row["task"], row["model_version"]) for row in predictions)
            self.order += [project] * len(predictions)
            hook, self.before_answer = self.before_answer, None
        if hook is not None:
            hook()
        return 201, {"created": len(predictions)}

    def _tasks(self, numbers: list[int]) -> list[dict[str, object]]:
        return [{"id": task, "predictions": self._list(task)} for task in numbers if task not in self.unknown_tasks]

    def _list(self, task: int) -> list[dict[str, object]]:
        with self._lock:
            found = [(version, count) for (number, version), count in self.stored.items() if number == task]
        rows = [version for version, count in found for _ in range(count)]
        return [{"id": n + 1, "task": task, "model_version": row, "score": 0.5, "result": []}
                for n, row in enumerate(rows)]  # fmt: skip


def _listen(fake: FaultyLabelStudio, port: int) -> ThreadingHTTPServer:
    server = _Server(("127.0.0.1", port), _Handler)
    server.fake = fake
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    fake: FaultyLabelStudio
    away = False

    def handle_error(self, *_: object) -> None:
        """A client that was killed in the middle is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/data/upload/") and not self.server.away:
            self._send_image(parts.path.rpartition("/")[2])
        else:
            self._answer("GET", None)

    def do_POST(self) -> None:
        self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, method: str, body: object) -> None:
        if self.server.away:
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status, content = self.server.fake.answer(method, parts.path, parse_qs(parts.query), token, body)
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        if status == 429:
            self.send_header("Retry-After", str(RETRY_AFTER_S))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _send_image(self, name: str) -> None:
        """Names of hostile files say what they do."""
        image = next(iter(self.server.fake.images.values()))
        kind = name.partition("-")[0]
        if kind == "hang":
            time.sleep(3600)
        elif kind == "drip":
            self._drip(image)
        elif kind == "loop":
            self._send(302, b"", "text/plain", Location=self.path)
        elif kind == "short":  # promises more than it sends, then hangs up
            self._send(200, image[:20], "image/png", length=len(image))
            self.close_connection = True
        elif kind == "gone":
            self._send(404, b"", "text/plain")
        else:
            self._send(200, image, "image/png")

    def _drip(self, image: bytes) -> None:
        self._send(200, b"", "image/png", length=len(image))
        for byte in image:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(DRIP_S)

    def log_message(self, *_: object) -> None:
        """The default writes to stderr, which would mix with the output."""
