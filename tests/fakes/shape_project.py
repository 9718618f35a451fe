"""A small annotated project of tiny-shapes scenes, as files, for tests of training and evaluation.

Called by: tests/flow/test_train.py, tests/flow/test_evaluate.py, tests/services/test_train_ddp.py.
Must not import: torch, mmdet.
Example: project = make_shape_project(tmp_path, train=4, val=2)
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from groundcrew.zoo.scenes import Pair, make_scene
from worker.dataset import Category
from worker.detectors.base import ModelSource
from worker.training.samples import Sample, SampleSet

TINY = Path(__file__).parents[2] / "groundcrew" / "zoo" / "tiny-shapes"
PAIRS: tuple[Pair, ...] = (("red", "circle"), ("blue", "square"), ("purple", "cross"))
CATEGORIES = tuple(Category(number, f"{c} {s}", (f"{c} {s}",)) for number, (c, s) in enumerate(PAIRS, start=1))
FIRST_SEED = 600_000


def tiny_base() -> ModelSource:
    """The model that ships with the package."""
    return ModelSource("tiny-shapes", "1", str(TINY / "config.py"), TINY / "model.safetensors")


def make_shape_project(directory: Path, *, train: int, val: int, side_px: int = 128) -> SampleSet:
    """So many images of `side_px` in each part, everything in them annotated; the last one of train is empty."""
    directory.mkdir(parents=True, exist_ok=True)
    samples = [_make_sample(directory / f"{number}.png", number, side_px) for number in range(train + val)]
    empty = Sample(samples[train - 1].image_path, samples[train - 1].boxes_xyxy_px[:0], ())
    Image.new("RGB", (side_px, side_px), "grey").save(empty.image_path)
    return SampleSet(CATEGORIES, [*samples[: train - 1], empty], samples[train:])


def _make_sample(path: Path, number: int, side_px: int) -> Sample:
    scene = make_scene(FIRST_SEED + number, size_px=side_px, pairs=PAIRS, counts=(3, 5))
    Image.fromarray(scene.image).save(path)
    return Sample(path, scene.boxes_xyxy_px, [1 + PAIRS.index(pair) for pair in scene.pairs])
