"""A real worker process, with a detector of the benchmark's choice that writes down each of its calls.

Called by: benchmarks/crew.py, as a process; configured by the environment like `python -m worker predict`, of which
only the detector differs. Must not import at the top: torch, backend, groundcrew.
Example: `REDIS_URL=redis://127.0.0.1:6379/0 python -m benchmarks.metered_worker sleeping calls.jsonl`
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.sleeping import SleepingDetector
from contract.registry import ModelVersion
from contract.settings import read_settings
from worker.__main__ import main
from worker.app import run_predict
from worker.detectors.base import Boxes, Detector
from worker.models import load_mmgdino

DETECTORS = ("sleeping", "tiny")


class Call(NamedTuple):
    """One detect call. Times are of the machine's monotonic clock, which its processes share."""

    began_s: float
    ended_s: float
    cpu_s: float  #: of the calling thread
    images: int


class Metered:
    """Any detector; each call is a line of a file, which several workers may share."""

    def __init__(self, detector: Detector, path: Path) -> None:
        self._detector, self._path = detector, path

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None,
        groups: Sequence[int] | None = None,
    ) -> list[Boxes]:
        began_s, cpu_s = time.monotonic(), time.thread_time()
        boxes = self._detector.detect(images, prompts, score_threshold=score_threshold, nms_iou=nms_iou, groups=groups)
        call = Call(began_s, time.monotonic(), time.thread_time() - cpu_s, len(images))
        with self._path.open("a", encoding="ascii") as file:
            file.write(json.dumps(call) + "\n")
        return boxes

    def warm_up(self) -> None:
        self._detector.warm_up()


def read_calls(path: Path) -> list[Call]:
    """All calls so far, in the order in which they ended."""
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return [Call(*json.loads(line)) for line in lines]


def make_loader(detector: str) -> Callable[[ModelVersion], Detector]:
    """`sleeping`, or `tiny`: the model of the registry, as the settings in the environment name it."""
    return load_mmgdino(read_settings()) if detector == "tiny" else lambda version: SleepingDetector()


def _main(detector: str, path: Path) -> int:
    load = make_loader(detector)
    return main(["predict"], {"predict": partial(run_predict, load=lambda version: Metered(load(version), path))})


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
