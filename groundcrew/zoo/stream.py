"""Training batches without end, drawn in a process of their own while the model learns from the last one.

Called by train_tiny.py.
Must not import torch or mmdet.
Example: `with BatchStream(seed=0) as batches: batch = next(batches)`.
"""

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from groundcrew.zoo.detection import LONG_SIDE_PX, SHORT_SIDE_PX
from groundcrew.zoo.prompts import Prompt, sample_prompt
from groundcrew.zoo.scenes import SEEN_PAIRS, make_scene

QUEUED_BATCHES = 12
PATIENCE_S = 60.0
SQUARE_CHANCE = 0.4
LONG_PROMPT_CHANCE = 0.15
MOST_ABSENT, MOST_ABSENT_LONG = 20, 68  # 68 names of two words and what is there still fit 256 tokens
TRAINING_SEEDS = range(10**9, 2 * 10**9)
"""Seeds of scenes that training may show; tests and evaluations take theirs from below."""


@dataclass(frozen=True)
class Batch:
    """Pictures of one size, with boxes and prompt of each."""

    images: NDArray[np.uint8]  # (B, H, W, 3) red, green, blue
    boxes_xyxy_px: list[NDArray[np.float32]]  # (N, 4) each, xyxy, pixels
    prompts: list[Prompt]


def make_batches(seed: int, batch_size: int) -> Iterator[Batch]:
    """Batches of this seed, for ever; every scene is new and shows pairs that are not held out."""
    random = np.random.default_rng(seed)
    while True:
        size_px = _sample_size(random)
        seeds = random.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop, batch_size)
        scenes = [make_scene(int(number), size_px=size_px, pairs=SEEN_PAIRS) for number in seeds]
        most = MOST_ABSENT_LONG if random.random() < LONG_PROMPT_CHANCE else MOST_ABSENT
        prompts = [sample_prompt(random, scene.pairs, SEEN_PAIRS, most) for scene in scenes]
        yield Batch(np.stack([scene.image for scene in scenes]), [scene.boxes_xyxy_px for scene in scenes], prompts)


def _sample_size(random: np.random.Generator) -> tuple[int, int]:
    """Height and width: the short side is what inference scales pictures to, the long one up to twice as much."""
    if random.random() < SQUARE_CHANCE:
        return SHORT_SIDE_PX, SHORT_SIDE_PX
    long_side_px = int(random.integers(SHORT_SIDE_PX, LONG_SIDE_PX + 1))
    return (SHORT_SIDE_PX, long_side_px) if random.random() < 0.6 else (long_side_px, SHORT_SIDE_PX)


class BatchStream:
    """Iterator over `make_batches`, filled by a child process of lower priority that ends with the `with` block."""

    def __init__(self, seed: int, batch_size: int = 4) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue: multiprocessing.Queue[Batch] = context.Queue(QUEUED_BATCHES)
        self._process = context.Process(target=_fill, args=(self._queue, seed, batch_size), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The next batch; queue.Empty if the drawing process has fallen silent."""
        return self._queue.get(timeout=PATIENCE_S)


def _fill(queue: "multiprocessing.Queue[Batch]", seed: int, batch_size: int) -> None:
    os.nice(10)
    for batch in make_batches(seed, batch_size):
        queue.put(batch)
