"""A stand-in ML backend that records what Label Studio sends and answers with fixed boxes.

Called by: tests/services/test_label_studio.py, and by hand (`python tests/fakes/stub_backend.py`) to look at pages.
Must not import: anything of ours; it stands for the other side of the protocol.
Example: with StubBackend.start() as stub: stub.count("/predict")
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

MODEL_VERSION = "stub-1"
_BOX = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0.0}


class StubBackend:
    """A running stub. `requests` holds (path, body) in the order of arrival."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.requests: list[tuple[str, dict]] = []
        self.label = "circle"

    @classmethod
    def start(cls, port: int = 0) -> "StubBackend":
        server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        server.stub = stub = cls(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return stub

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def count(self, path: str) -> int:
        return sum(seen == path for seen, _ in self.requests)

    def bodies(self, path: str) -> list[dict]:
        return [body for seen, body in self.requests if seen == path]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "StubBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, path: str, body: dict) -> object:
        if path == "/predict":
            return {"results": self._predict(body)}
        if path == "/versions":
            return {"versions": [MODEL_VERSION]}
        return {"status": "UP", "model_class": "Stub", "model_version": MODEL_VERSION}

    def _predict(self, body: dict) -> list[dict]:
        prediction = {"result": [self._region()], "score": 0.9, "model_version": MODEL_VERSION}
        return [prediction for _ in body["tasks"]]

    def _region(self) -> dict:
        value = _BOX | {"rectanglelabels": [self.label]}
        return {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "score": 0.9, "value": value}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _respond(self, body: dict) -> None:
        stub: StubBackend = self.server.stub
        stub.requests.append((self.path, body))
        content = json.dumps(stub.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The default writes to stderr, which would mix with the test output."""


if __name__ == "__main__":
    backend = StubBackend.start(port=9099)
    print("listening on", backend.url)
    input("Enter stops it. ")
