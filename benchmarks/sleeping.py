"""A detector that sleeps like a GPU: 30 ms a call and 4 ms an image, so that what is measured is everything around it.

Called by: benchmarks/metered_worker.py, benchmarks/synchronous.py. Must not import: torch, backend.
Start a real worker process with it: `python -m benchmarks.metered_worker sleeping calls.jsonl`, in the environment of
`python -m worker predict`. Example: `SleepingDetector().detect([pixels], ("red circle",), score_threshold=0.3)`
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from worker.detectors.base import Boxes

CALL_S = 0.030
IMAGE_S = 0.004
SCORES = np.array([0.9, 0.8, 0.7], np.float32)  # (3,)


class SleepingDetector:
    """Three boxes an image, made of its pixels: the same image gets the same boxes in every process."""

    def __init__(self, call_s: float = CALL_S, image_s: float = IMAGE_S) -> None:
        self._call_s, self._image_s = call_s, image_s

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None = None,
        groups: Sequence[int] | None = None,
    ) -> list[Boxes]:
        """See worker.detectors.base.Detector. The call holds no lock while it sleeps, as a GPU call would not."""
        time.sleep(self._call_s + self._image_s * len(images))
        return [_boxes_of(image, len(prompts), score_threshold) for image in images]

    def warm_up(self) -> None:
        """Nothing to prepare."""


def _boxes_of(image: NDArray[np.uint8], prompts: int, score_threshold: float) -> Boxes:
    return _make_boxes(zlib.crc32(image.tobytes()), image.shape[:2], prompts, score_threshold)


@lru_cache(maxsize=1000)  # a GPU's boxes cost the processor nothing either
def _make_boxes(seed: int, size_px: tuple[int, int], prompts: int, score_threshold: float) -> Boxes:
    height_px, width_px = size_px
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((len(SCORES), 2, 2)), axis=1)  # (3, 2, 2) first and last corner, 0 to 1
    xyxy_px = corners.reshape(-1, 4) * [width_px, height_px, width_px, height_px]  # (3, 4) xyxy, pixels
    kept = score_threshold <= SCORES  # (3,)
    labels = random.integers(0, prompts, len(SCORES))  # (3,)
    return Boxes(xyxy_px[kept].astype(np.float32), SCORES[kept], labels[kept])
