"""The real tiny model on pictures of 1920 x 2048 pixels full of small shapes: measured and trained as it predicts them.

Called by: pytest. Must not import: Celery, redis.
Example: .venv/bin/python -m pytest tests/flow/test_large_training.py
"""

import json

import numpy as np
import pytest
import torch

from contract.settings import read_settings
from contract.tiling import Tiling
from groundcrew.predict import predict_sources
from groundcrew.predict_output import Output
from tests.fakes.large_project import make_large_project
from tests.fakes.shape_project import CATEGORIES, tiny_base
from worker.detectors.base import Boxes, ModelSource
from worker.detectors.mmgdino import load
from worker.evaluate import Judged, evaluate, measure
from worker.tiles import TileLook
from worker.train import directory_of, read_options, train
from worker.training.cuts import cut_training_images

TILES = TileLook(Tiling(300, 0.4, True), 0.4)  #: the threshold is that of the tiny model's card
KNOWN = CATEGORIES[:2]  #: of the three labels, those that the tiny model knows already
NEW = CATEGORIES[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmcv")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_large_project(tmp_path_factory.mktemp("large"), train=2, val=1, tiles=TILES)


@pytest.fixture(scope="module")
def before(dataset):
    """What the tiny model finds in tiles."""
    return measure_in(dataset, tiny_base(), TILES)


def measure_in(dataset, source, tiles):
    return evaluate(load(source, "cpu"), dataset.split("val"), dataset.categories, tiles=tiles)


def predict(image_path, folder):
    """What a person sees of it: `groundcrew predict` in the same tiles."""
    settings = read_settings({}, torch_threads=1, tile_size_px=TILES.tiling.size_px, tile_overlap=TILES.tiling.overlap)
    prompt = " . ".join(category.name for category in CATEGORIES)
    predict_sources(settings, [str(image_path)], prompt, Output.read(folder, "coco", ""))
    answer = json.loads((folder / "predictions.json").read_text())
    numbers = {row["id"]: [c.name for c in CATEGORIES].index(row["name"]) for row in answer["categories"]}
    rows = sorted(answer["annotations"], key=lambda row: -row["score"])
    xywh = np.array([row["bbox"] for row in rows], np.float32)
    return Boxes(np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1),
                 np.array([row["score"] for row in rows], np.float32),
                 np.array([numbers[row["category_id"]] for row in rows], np.int64))  # fmt: skip


def test_a_project_in_tiles_is_measured_by_what_its_users_see(dataset, before, tmp_path):
    # given the boxes that prediction finds in tiles
    (sample,) = dataset.split("val")
    found = predict(sample.image_path, tmp_path / "out")
    truth = [number - 1 for number in sample.category_ids]
    # when they are measured by themselves
    seen = measure([Judged(sample.boxes_xyxy_px, truth, found, range(3))], [c.name for c in CATEGORIES], most_boxes=500)
    # then this is what the evaluation says, but for unsure boxes, which can only come after them
    assert all(before.per_class_ap[category.name] > 0.8 for category in KNOWN)
    for category in CATEGORIES:
        gain = before.per_class_ap[category.name] - seen.per_class_ap[category.name]
        assert -0.002 <= gain < 0.05, (category.name, before.per_class_ap, seen.per_class_ap)


def test_in_the_whole_picture_the_small_shapes_are_not_there(dataset, before):
    whole = measure_in(dataset, tiny_base(), None)

    assert whole.map < 0.05
    assert before.map > 0.5


@pytest.mark.slow
def test_a_short_training_on_tiles_learns_what_the_whole_picture_does_not_show(dataset, before, tmp_path):
    # given a shape that the base has never seen
    assert before.per_class_ap[NEW.name] < 0.1
    # when
    data = cut_training_images(dataset, tmp_path / "tiles", lambda done, total: None, lambda: False)
    options = read_options(directory_of(tiny_base()), {"iterations": 24, "validations": 1})
    version = train(tiny_base(), data, tmp_path / "work", options, report=lambda progress: None,
                    cancelled=lambda: False, device="cpu")  # fmt: skip
    # then it is found, those that were known before still are, and the training itself measured in tiles
    tuned = ModelSource("tuned", "1", str(version / "config.py"), version / "model.safetensors")
    after = measure_in(dataset, tuned, TILES)
    assert after.per_class_ap[NEW.name] > 0.3, after.per_class_ap
    assert after.map > before.map + 0.1
    log = json.loads((version / "train.json").read_text())
    assert log["best_weighted_map"] == pytest.approx(after.weighted_map, abs=0.05)
