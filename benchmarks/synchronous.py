"""The baseline: an ML backend that answers /predict one image at a time, as label-studio-ml's mmdetection example does.

Called by: benchmarks/pipeline.py, as a process. Must not import: Celery, redis.
It uses the same detector, image reader and label conversion as our workers, so only the way of working differs.
Example: `python -m benchmarks.synchronous sleeping 9090 pictures calls.jsonl`
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.metered_worker import Metered, make_loader
from contract.jobs import PredictJob
from contract.labels import LabelMap, read_label_config
from contract.registry import ModelVersion, Registry
from contract.settings import read_settings
from worker.detectors.base import Detector
from worker.images import decode_image
from worker.predict import as_prediction

STAMP = "synchronous"


class Backend:
    """One detector, one image at a time."""

    def __init__(self, detector: Detector, version: ModelVersion, pictures: Path) -> None:
        self._detector, self._version, self._pictures = detector, version, pictures
        self._limit_px = read_settings({}).image_limit_px

    def predict(self, body: dict[str, Any]) -> list[dict[str, object]]:
        """The answer to /predict: Label Studio stores it."""
        label_map = read_label_config(body["label_config"], prompt_map={})
        return [self._predict_one(task["id"], task["data"]["image"], label_map) for task in body["tasks"]]

    def _predict_one(self, task_id: int, image: str, label_map: LabelMap) -> dict[str, object]:
        name = parse_qs(urlsplit(image).query)["d"][0]
        pixels = decode_image((self._pictures / name).read_bytes(), limit_px=self._limit_px)
        threshold, nms_iou = self._version.score_threshold, self._version.nms_iou
        (boxes,) = self._detector.detect([pixels], label_map.prompts, score_threshold=threshold, nms_iou=nms_iou,
                                         groups=label_map.nms_groups)  # fmt: skip
        job = PredictJob(project_id=1, task_id=task_id, image=image, config_id="", model=self._version.ref,
                         model_version=STAMP, id="")  # fmt: skip
        return as_prediction(job, label_map, boxes, pixels, threshold).to_label_studio()


def make_handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    """The three routes that Label Studio calls."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"status": "UP", "model_class": "Synchronous"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer({"results": backend.predict(body)} if self.path == "/predict" else {"model_version": STAMP})

        def _answer(self, found: dict[str, object]) -> None:
            content = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Silent."""

    return Handler


def main(detector: str, port: int, pictures: Path, calls: Path) -> None:
    version = Registry(read_settings({})).base
    backend = Backend(Metered(make_loader(detector)(version), calls), version, pictures)
    ThreadingHTTPServer(("127.0.0.1", port), make_handler(backend)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
