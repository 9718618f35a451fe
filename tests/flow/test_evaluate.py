"""Guarantees of worker/evaluate.py and worker/replay.py: COCO's figures, the same prompts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.errors import CheckpointRefused, JobCancelled
from contract.tiling import Tiling
from tests.fakes.shape_project import CATEGORIES, TINY, make_shape_project, tiny_base
from worker.dataset import Category
from worker.detectors.base import Boxes
from worker.detectors.mmgdino import load
from worker.evaluate import Metrics, draw_precision_recall, evaluate, evaluate_general
from worker.replay import ReplayItem, open_replay, write_replay
from worker.tiles import TileLook
from worker.training.captions import Caption
from worker.training.samples import Sample, SampleSet


class Oracle:
    """Finds what it was told to find, image after image: rows of x, y, x, y, score, number of the prompt."""

    def __init__(self, answers: Sequence[Sequence[Sequence[float]]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None,
        groups: Sequence[int] | None = None,
    ) -> list[Boxes]:
        self.asked.append(prompts)
        return [self._answer() for _ in images]

    def _answer(self) -> Boxes:
        rows = np.array(sorted(self.answers.pop(0), key=lambda row: -row[4]), np.float32).reshape(-1, 6)
        return Boxes(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))

    def warm_up(self) -> None:
        """It is always warm."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    return make_shape_project(tmp_path_factory.mktemp("project"), train=2, val=6)


def sample_of(project: SampleSet, boxes: Sequence[Sequence[float]], categories: Sequence[int]) -> Sample:
    return Sample(project.val[0].image_path, np.array(boxes, np.float32).reshape(-1, 4), categories)


def find_truth(samples: Sequence[Sample], names: Sequence[int] = (0, 1, 2)) -> list[list[list[float]]]:
    """Answers that are right, category 1 under the first of `names` and so on."""
    return [
        [[*box, 0.9, names[number - 1]] for box, number in zip(one.boxes_xyxy_px, one.category_ids, strict=True)]
        for one in samples
    ]


def metrics(map_: float) -> Metrics:
    return Metrics(map_, map_, {}, {}, 3, 9, np.linspace(1, 0, 101))


# -- figures ---------------------------------------------------------------------------------------------------------


def test_everything_found(project: SampleSet) -> None:
    found = evaluate(Oracle(find_truth(project.val)), project.val, CATEGORIES)
    assert (found.map, found.ap50) == pytest.approx((1.0, 1.0))
    assert found.per_class_ap == pytest.approx({category.name: 1.0 for category in CATEGORIES})
    assert (found.images, found.boxes) == (6, sum(len(sample.category_ids) for sample in project.val))


def test_shuffled_labels_find_nothing(project: SampleSet) -> None:
    found = evaluate(Oracle(find_truth(project.val, names=(1, 2, 0))), project.val, CATEGORIES)
    assert found.map == 0.0


def test_inexact_boxes_count_at_low_overlap_only(project: SampleSet) -> None:
    # given a box whose overlap with the true one is 0.62: right for 0.50, 0.55 and 0.60
    sample = sample_of(project, [[0, 0, 100, 100]], [1])
    found = evaluate(Oracle([[[0, 0, 62, 100, 0.9, 0]]]), [sample], CATEGORIES)
    assert found.ap50 == pytest.approx(1.0)
    assert found.map == pytest.approx(0.3)


def test_find_in_an_empty_image_lowers_precision(project: SampleSet) -> None:
    # given an image with a box and one that was submitted empty, in which the model is surer to see something
    samples = [sample_of(project, [[0, 0, 50, 50]], [1]), sample_of(project, [], [])]
    found = evaluate(Oracle([[[0, 0, 50, 50, 0.5, 0]], [[0, 0, 50, 50, 0.9, 0]]]), samples, CATEGORIES)
    assert found.ap50 == pytest.approx(0.5)


def test_prompts_of_one_label_count_as_one(project: SampleSet) -> None:
    # given a label with two prompts, each of which finds one of two boxes
    categories = [Category(4, "Car", ("car", "automobile")), Category(9, "Bus", ("bus",))]
    sample = sample_of(project, [[0, 0, 50, 50], [60, 60, 90, 90]], [4, 4])
    oracle = Oracle([[[0, 0, 50, 50, 0.9, 0], [60, 60, 90, 90, 0.8, 1]]])
    # when / then
    assert evaluate(oracle, [sample], categories).per_class_ap == pytest.approx({"Car": 1.0})
    assert oracle.asked == [("car", "automobile", "bus")]


def test_in_tiles_more_than_a_hundred_boxes_of_a_label_count(project: SampleSet) -> None:
    # given 150 things that are all found: as many as only a picture that is looked at in tiles shows
    boxes = [[x, y, x + 4.0, y + 4.0] for x in range(0, 90, 6) for y in range(0, 60, 6)]
    sample, answer = sample_of(project, boxes, [1] * 150), [[*box, 0.9, 0] for box in boxes]
    tiles = TileLook(Tiling(500, 0.2, True), 0.3)
    # when / then COCO's limit is for one look
    assert evaluate(Oracle([answer]), [sample], CATEGORIES, tiles=tiles).map == pytest.approx(1.0)
    assert evaluate(Oracle([answer]), [sample], CATEGORIES).map < 0.7


def test_nothing_annotated(project: SampleSet) -> None:
    found = evaluate(Oracle([[]]), [sample_of(project, [], [])], CATEGORIES)
    assert (found.map, found.boxes, found.per_class_ap) == (0.0, 0, {})


def test_cancelled_between_images(project: SampleSet) -> None:
    with pytest.raises(JobCancelled):
        evaluate(Oracle([]), project.val, CATEGORIES, cancelled=lambda: True)


def test_picture_of_precision_and_recall(tmp_path: Path) -> None:
    draw_precision_recall(tmp_path / "pr.png", {"base": metrics(0.3), "candidate": metrics(0.6)})
    assert (tmp_path / "pr.png").read_bytes().startswith(b"\x89PNG")


# -- what the base knows ---------------------------------------------------------------------------------------------


def test_tiny_model_knows_its_held_out_images() -> None:
    # given the first of the images that ship with it
    replay = open_replay(TINY)
    replay.held_out = replay.held_out[:8]
    # then what is measured is what its card says
    assert evaluate_general(load(tiny_base(), "cpu", threads=1), replay).ap50 > 0.9


def test_no_replay_no_check(tmp_path: Path) -> None:
    assert open_replay(tmp_path) is None
    assert open_replay(None) is None
    assert evaluate_general(Oracle([]), None) is None


def test_replay_comes_back_as_it_was_packed(tmp_path: Path, project: SampleSet) -> None:
    # given
    sample = project.val[0]
    caption = Caption(["red circle", "star"], [[0]] * len(sample.boxes_xyxy_px))
    item = ReplayItem("train/0.png", sample.boxes_xyxy_px, [caption])
    packed = [(item, sample.image_path.read_bytes())]
    # when it is packed twice
    for name in ("replay.zip", "again.zip"):
        write_replay(tmp_path / name, packed, [], closed_world=True)
    # then
    replay = open_replay(tmp_path)
    assert replay.train[0].captions == [caption]
    assert np.array_equal(replay.train[0].boxes_xyxy_px, sample.boxes_xyxy_px)
    assert replay.read_pixels(replay.train[0]).shape == (128, 128, 3)
    assert (tmp_path / "replay.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_damaged_replay_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.zip"
    path.write_bytes(b"not a zip")
    with pytest.raises(CheckpointRefused, match="damaged"):
        open_replay(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "replay.json",
            '{"closed_world": true, "held_out": [], "train": [{"file": "a", "boxes_xyxy_px": [[0, 0, 1, 1]], '
            '"captions": [{"names": ["x"], "matches": []}]}]}',
        )
    with pytest.raises(CheckpointRefused, match="do not fit"):
        open_replay(tmp_path)
