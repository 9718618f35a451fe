"""What the rest of the worker knows about a detector: images and prompts in, boxes out.

Called by the batcher, `worker/models.py` and every detector; a test may write its own detector against it.
Must not import torch, mmdet or any concrete detector.
Example: `boxes = detector.detect([image], ("red circle",), score_threshold=0.3, nms_iou=0.7)[0]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Boxes:
    """What was found in one image, the best first."""

    xyxy_px: NDArray[np.float32]  # (N, 4) left, top, right, bottom; pixels of the image as it was given
    scores: NDArray[np.float32]  # (N,) 0 to 1, descending
    labels: NDArray[np.int64]  # (N,) positions in the tuple of prompts

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class ModelSource:
    """Where one version of a model comes from."""

    name: str
    version: str
    config: str  #: path of an mmengine config, or the name of one in mmdet's wheel
    checkpoint: Path | None = None  #: None gives random weights: for tests and for timing
    lang_model: Path | None = None  #: directory of the BERT; None if the config names a local directory itself


class Detector(Protocol):
    """Finds what the prompts name. One thread at a time calls it."""

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None,
        groups: Sequence[int] | None = None,
    ) -> list[Boxes]:
        """Look for every prompt in every image; the other images of a call never change an image's result.

        Args:
            images: each (H, W, 3) RGB; sizes may differ.
            prompts: what to look for; equal prompts get equal boxes, each under its own position.
            score_threshold: boxes below this score are left out.
            nms_iou: of two boxes of one group that overlap by more than this IoU the better one stays;
                None keeps all.
            groups: group of each prompt, such as the label that several prompts stand for; None makes each prompt
                a group of its own.

        Returns:
            One `Boxes` an image, in the order of `images`.

        Raises:
            PromptError: a prompt is empty or too long for the model; there are no prompts at all.
            OutOfDeviceMemory: fewer images in a call may help.
        """
        ...

    def warm_up(self) -> None:
        """Run once on a plain image, so that the first real image does not pay for lazy initialisation."""
        ...
