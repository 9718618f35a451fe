"""dataset.json: what is written is read back, other tools can read it, and its hash means its content.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_dataset.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from contract.errors import TrainingDataError
from worker.dataset import Category, Dataset, DatasetImage, DatasetInfo, LabelledBox, SkippedTask
from worker.files import atomic_file

CAR = LabelledBox(10.125, 20.0, 30.5, 1 / 3, 1)
LIGHT = LabelledBox(0.0, 0.0, 64.0, 48.0, 2)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images: two cars and a light, a car, nothing."""
    return Dataset(
        info=DatasetInfo(7, "2026-01-01T00:00:00+00:00", "tiny-shapes-1", "c0ffee"),
        categories=(
            Category(1, "car", ("car", "auto")),
            Category(2, "红绿灯", ("traffic light",)),
            Category(3, "cat", ("cat",)),
        ),
        images=(
            DatasetImage(11, "ab/ab01", 64, 48, "train", (CAR, CAR._replace(x_px=1.0), LIGHT)),
            DatasetImage(12, "cd/cd02", 64, 48, "val", (CAR,)),
            DatasetImage(15, "ef/ef03", 32, 32, "train", ()),
        ),
        image_dir=tmp_path / "models" / ".images",
        notes={"box dropped: less than 1 pixel of it is inside the image": 4},
        skipped=(SkippedTask(13, "no image"), SkippedTask(14, "no image")),
    )  # fmt: skip


def test_what_is_written_is_read_back(dataset, tmp_path) -> None:
    # given
    work_dir = tmp_path / "models" / ".work" / "ft-7-ab"

    # when
    dataset.write(work_dir)

    # then every number to its last digit, and the hash with it
    again = Dataset.read(work_dir)
    assert again == dataset
    assert again.sha256 == dataset.sha256
    assert [path.name for path in work_dir.iterdir()] == ["dataset.json"]


def test_it_still_finds_its_images_when_everything_is_moved(dataset, tmp_path) -> None:
    # given a model directory that is mounted elsewhere later, and a copy of the file beside a published version
    dataset.write(tmp_path / "models" / ".work" / "ft-7-ab")
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "models", moved)
    copy = tmp_path / "version"
    shutil.copytree(moved / ".work" / "ft-7-ab", copy)

    # when / then
    assert Dataset.read(moved / ".work" / "ft-7-ab").image_dir == moved / ".images"
    assert Dataset.read(copy, image_dir=moved / ".images").split("val")[0].image_path == moved / ".images/cd/cd02"


def test_a_coco_library_reads_it(dataset, tmp_path) -> None:
    # given
    path = dataset.write(tmp_path)

    # when
    coco = COCO(str(path))

    # then
    assert {category["id"]: category["name"] for category in coco.cats.values()} == {1: "car", 2: "红绿灯", 3: "cat"}
    assert [len(coco.getAnnIds(imgIds=[image_id])) for image_id in sorted(coco.imgs)] == [3, 1, 0]
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert annotation["bbox"] == [10.125, 20.0, 30.5, 1 / 3]
    assert (annotation["iscrowd"], annotation["area"]) == (0, 30.5 / 3)
    assert coco.imgs[2]["task_id"] == 12


def test_samples_hold_corners_in_pixels(dataset) -> None:
    # given / when
    train, val = dataset.split("train"), dataset.split("val")

    # then
    assert [sample.task_id for sample in train] == [11, 15]
    assert train[0].category_ids == (1, 1, 2)
    np.testing.assert_allclose(train[0].boxes_xyxy_px[2], [0, 0, 64, 48])
    np.testing.assert_allclose(val[0].boxes_xyxy_px, [[10.125, 20, 40.625, 20 + 1 / 3]], rtol=1e-6)
    assert train[1].boxes_xyxy_px.shape == (0, 4)
    assert dataset.prompts == {1: ("car", "auto"), 2: ("traffic light",), 3: ("cat",)}
    assert dataset.splits == {11: "train", 12: "val", 15: "train"}


def test_counts_and_warnings_say_what_is_there(dataset) -> None:
    assert dataset.counts == {
        "images": {"train": 2, "val": 1},
        "images_without_boxes": {"train": 1, "val": 0},
        "boxes": {"car": {"train": 2, "val": 1}, "红绿灯": {"train": 1, "val": 0}, "cat": {"train": 0, "val": 0}},
        "notes": {"box dropped: less than 1 pixel of it is inside the image": 4},
        "skipped_tasks": {"no image": 2},
    }
    assert dataset.warnings == [
        '"红绿灯" is learned but not measured: annotate more images that show it',
        'no box of "cat": it is not learned; annotate images that show it',
    ]


def test_the_hash_is_of_what_training_sees(dataset, tmp_path) -> None:
    # given the same data, exported by someone else at another time to another place
    same = replace(dataset, info=DatasetInfo(8, "2027", "other", "x"), image_dir=tmp_path, notes={}, skipped=())
    first, *others = dataset.images

    # when
    changed = [
        replace(dataset, images=(replace(first, split="val"), *others)),
        replace(dataset, images=(replace(first, boxes=(CAR, LIGHT)), *others)),
        replace(dataset, images=(replace(first, boxes=(CAR._replace(x_px=10.25), *first.boxes[1:])), *others)),
        replace(dataset, images=(replace(first, file_name="ab/ab02"), *others)),
        replace(dataset, categories=dataset.categories[:2]),
    ]

    # then
    assert same.sha256 == dataset.sha256
    assert len({dataset.sha256, *(other.sha256 for other in changed)}) == 6


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"info": {}}'])
def test_a_missing_or_damaged_file_is_an_error_that_says_what_to_do(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content)

    with pytest.raises(TrainingDataError, match=r"dataset\.json cannot be read .* delete it"):
        Dataset.read(tmp_path)


def test_an_unknown_split_is_no_dataset(dataset, tmp_path) -> None:
    path = dataset.write(tmp_path)
    content = json.loads(path.read_text())
    content["images"][0]["split"] = "test"
    path.write_text(json.dumps(content))

    with pytest.raises(TrainingDataError, match="no known split"):
        Dataset.read(tmp_path)


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path) -> None:
    # given
    path = tmp_path / "dataset.json"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    # when the disk fills up while it is written
    with pytest.raises(OSError, match="No space"):
        write_half()

    # then
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
