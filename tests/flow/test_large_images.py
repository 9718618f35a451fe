"""The real tiny model on a large picture: what is too small in the whole of it is found in tiles, and nothing twice.

Called by: pytest. Must not import: Celery, redis.
Example: .venv/bin/python -m pytest tests/flow/test_large_images.py
"""

import json

import numpy as np
import pytest
from PIL import Image

from contract.settings import read_settings
from groundcrew.boxes import Agreement, LabelledBox, compare
from groundcrew.predict import predict_sources
from groundcrew.predict_output import Output
from groundcrew.zoo.scenes import make_scene

SCENE_PX = (256, 320)  # height, width: what the tiny model was made for
ROWS, COLUMNS = 4, 4
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmcv")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A picture of 1280 x 1024 pixels, and its 24 to 110 pixel wide shapes: four by four scenes side by side."""
    canvas = np.zeros((ROWS * SCENE_PX[0], COLUMNS * SCENE_PX[1], 3), np.uint8)
    known = []
    for number in range(ROWS * COLUMNS):
        scene = make_scene(7000 + number, size_px=SCENE_PX)
        top, left = number // COLUMNS * SCENE_PX[0], number % COLUMNS * SCENE_PX[1]
        canvas[top : top + SCENE_PX[0], left : left + SCENE_PX[1]] = scene.image
        for name, box in zip(scene.names, np.add(scene.boxes_xyxy_px, [left, top, left, top]), strict=True):
            known.append(LabelledBox(name, tuple(box.tolist())))
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(canvas).save(path)
    return path, known


@pytest.fixture
def find(tmp_path, large):
    """Predicts the large picture under these settings; returns how well it agrees with what was drawn."""
    path, known = large
    prompt = " . ".join(sorted({box.label for box in known}))

    def run(**settings) -> Agreement:
        output = Output.read(tmp_path / "out", "coco", "")
        predict_sources(read_settings({}, torch_threads=1, **settings), [str(path)], prompt, output)
        answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
        names = {row["id"]: row["name"] for row in answer["categories"]}
        found = [_as_box(names[row["category_id"]], row["bbox"], row["score"]) for row in answer["annotations"]]
        return compare(known, found)

    return run


def _as_box(label: str, xywh: list[float], score: float) -> LabelledBox:
    left, top, width, height = xywh
    return LabelledBox(label, (left, top, left + width, top + height), score)


def test_small_shapes_are_found_in_tiles_and_none_twice(find):
    whole = find()
    tiled = find(tile_size_px=300, tile_overlap=0.4)

    assert whole.recall < 0.4, "without tiles the picture is shrunk to a quarter of its size"
    assert tiled.recall > 0.9
    again = [box for box in tiled.extra if any(_same(box, other) for _, other, _ in tiled.found)]
    assert again == [], "a shape that a border cuts, or that two tiles see, is one"
    assert len(tiled.extra) < 0.2 * len(tiled.found), "the seams of the picture confuse the model a little"


def _same(box: LabelledBox, other: LabelledBox) -> bool:
    """Whether it lies mostly within the other one of its label: a part, or a second find."""
    left, top = (max(a, b) for a, b in zip(box.xyxy_px[:2], other.xyxy_px[:2], strict=True))
    right, bottom = (min(a, b) for a, b in zip(box.xyxy_px[2:], other.xyxy_px[2:], strict=True))
    area = (box.xyxy_px[2] - box.xyxy_px[0]) * (box.xyxy_px[3] - box.xyxy_px[1])
    return box.label == other.label and max(0, right - left) * max(0, bottom - top) > 0.6 * area
