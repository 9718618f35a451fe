"""An annotated project of large pictures full of small shapes, exported: for tests of training and measuring in tiles.

Called by: tests/flow/test_large_training.py. Must not import: torch, mmdet.
Example: dataset = make_large_project(tmp_path, train=2, val=1, tiles=TileLook(Tiling(300, 0.4, True), 0.3))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groundcrew.zoo.scenes import make_scene
from tests.fakes.shape_project import CATEGORIES, PAIRS
from worker.dataset import Dataset, DatasetImage, DatasetInfo, LabelledBox
from worker.splits import Split
from worker.tiles import TileLook

SCENE_PX = (256, 320)  #: height, width: what the tiny model was made for; shapes of 24 to 110 pixels
ROWS, COLUMNS = 8, 6
SIZE_PX = (COLUMNS * SCENE_PX[1], ROWS * SCENE_PX[0])  #: width, height: 1920 x 2048
FIRST_SEED = 640_000
INFO = DatasetInfo(1, "2026-01-01T00:00:00+00:00", "tiny-shapes-1", "c0ffee")


def make_large_project(directory: Path, *, train: int, val: int, tiles: TileLook | None, empty: float = 0.5) -> Dataset:
    """So many large pictures, everything in them annotated; about `empty` of the 48 scenes of each show nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(train + val):
        pixels, boxes = _make_picture(number, empty)
        name = f"{number}.png"
        Image.fromarray(pixels).save(directory / name)
        split: Split = "train" if number < train else "val"
        rows.append(DatasetImage(number + 1, name, *SIZE_PX, split, tuple(boxes)))
    return Dataset(INFO, CATEGORIES, tuple(rows), directory, {}, (), tiles)


def _make_picture(number: int, empty: float) -> tuple[NDArray[np.uint8], list[LabelledBox]]:
    random = np.random.default_rng(number)
    canvas = np.zeros((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    boxes = []
    for place in range(ROWS * COLUMNS):
        counts = (0, 0) if random.random() < empty else (3, 6)
        scene = make_scene(FIRST_SEED + 1000 * number + place, size_px=SCENE_PX, pairs=PAIRS, counts=counts)
        top, left = place // COLUMNS * SCENE_PX[0], place % COLUMNS * SCENE_PX[1]
        canvas[top : top + SCENE_PX[0], left : left + SCENE_PX[1]] = scene.image
        for pair, (x1, y1, x2, y2) in zip(scene.pairs, scene.boxes_xyxy_px.tolist(), strict=True):
            boxes.append(LabelledBox(left + x1, top + y1, x2 - x1, y2 - y1, 1 + PAIRS.index(pair)))
    return canvas, boxes
