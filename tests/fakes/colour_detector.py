"""A detector that finds plain colours: a prompt's first word names one, and the box surrounds its pixels.

Called by: tests/flow. It looks at real pixels, so that a picture that was turned or scaled the wrong way shows.
Must not import: torch, backend.
Example: ColourDetector().detect([pixels], ("red",), score_threshold=0.3, nms_iou=None, groups=(0,))[0].xyxy_px
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from worker.detectors.base import Boxes

SCORE = 0.9
TOLERANCE = 60  # of 255 a channel: JPEG changes colours


class ColourDetector:
    """Finds at most one box a prompt; `batches` holds the number of images of each call."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None,
        groups: tuple[int, ...] = (),
    ) -> list[Boxes]:
        self.batches.append(len(images))
        return [_look(image, prompts) if score_threshold <= SCORE else _look(image, ()) for image in images]

    def warm_up(self) -> None:
        """Nothing to prepare."""


def _look(image: NDArray[np.uint8], prompts: tuple[str, ...]) -> Boxes:
    found = [(number, box) for number, prompt in enumerate(prompts) if (box := _box_of(image, prompt)) is not None]
    return Boxes(
        np.array([box for _, box in found], np.float32).reshape(-1, 4),
        np.full(len(found), SCORE, np.float32),
        np.array([number for number, _ in found], np.int64),
    )


def _box_of(image: NDArray[np.uint8], prompt: str) -> tuple[int, int, int, int] | None:
    colour = np.array(ImageColor.getrgb(prompt.split()[0]))
    rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < TOLERANCE).all(axis=2))
    if not len(rows):
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
