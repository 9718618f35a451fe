"""Somebody's server for outgoing webhooks: verifies as the Standard Webhooks library does, and can fail or hang.

Called by: tests of notifications. Must not import: worker.
Example: with Receiver(secret, answers=[503, 200]) as receiver: ...; receiver.events[0]["type"]
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from standardwebhooks import Webhook, WebhookVerificationError


class Receiver:
    """Answers with `answers` in turn, then with 204. While `hanging` is set it does not answer at all."""

    def __init__(self, secret: str, answers: list[int] | None = None) -> None:
        self.events: list[dict] = []  #: those whose signature holds and that were taken (2xx)
        self.ids: list[str] = []  #: of all requests
        self.refused = 0  #: requests with a bad signature
        self.arrived = threading.Semaphore(0)
        self.released = threading.Event()
        self.released.set()
        self._webhook, self._answers = Webhook(secret), answers or []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def hang(self) -> None:
        self.released.clear()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        self.ids.append(headers.get("webhook-id", ""))
        self.arrived.release()
        self.released.wait()
        try:
            self._webhook.verify(body, headers)
        except WebhookVerificationError:
            self.refused += 1
            return 400
        status = self._answers.pop(0) if self._answers else 204
        if status < 300:
            self.events.append(json.loads(body))
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
