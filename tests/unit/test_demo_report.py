"""The demo's verdict: it passes for right boxes and fails for each fault a newcomer must hear about.

Called by: pytest. The demo itself is run by tests/services/test_demo.py.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_demo_report.py
"""

import json
from dataclasses import replace

import pytest
from PIL import Image

from contract.labels import read_label_config
from groundcrew.demo.report import Report, judge
from groundcrew.demo.scenes import DemoImage, make_images, make_label_config
from groundcrew.label_studio.client import Prediction

IMAGES = make_images(3)
TASKS = {number + 1: image.file.name for number, image in enumerate(IMAGES)}


def region_of(image: DemoImage, number: int) -> dict:
    width_px, height_px = image.picture.size
    left, top, right, bottom = image.boxes[number].xyxy_px
    place = {"x": left / width_px, "y": top / height_px}
    size = {"width": (right - left) / width_px, "height": (bottom - top) / height_px}
    value = {name: share * 100 for name, share in (place | size).items()}
    value["rectanglelabels"] = [image.boxes[number].label]
    return {"original_width": width_px, "original_height": height_px, "score": 0.9, "value": value}


def right_predictions() -> list[Prediction]:
    return [
        Prediction(task, task, "v1", 0.9, [region_of(image, number) for number in range(len(image.boxes))])
        for task, image in zip(TASKS, IMAGES, strict=True)
    ]


def report_on(stored: list[Prediction], folder) -> Report:
    return judge(IMAGES, stored, TASKS, seconds_to_first_box=1.23, picture_path=folder / "out" / "overview.png")


def test_right_boxes_pass(tmp_path):
    report = report_on(right_predictions(), tmp_path)

    known = sum(len(image.boxes) for image in IMAGES)
    assert report.passed
    assert json.loads(report.as_json()) == {
        "label_studio": "1.23.2", "tasks": 3, "predicted": 3, "boxes": known, "recall_iou50": 1.0, "mean_iou": 1.0,
        "duplicates": 0, "seconds_to_first_box": 1.2, "picture": str(tmp_path / "out" / "overview.png"),
    }  # fmt: skip
    with Image.open(report.picture) as picture:
        assert picture.width > 3 * 180


def test_a_missing_prediction_fails(tmp_path):
    report = report_on(right_predictions()[1:], tmp_path)

    assert (report.predicted, report.passed) == (2, False)


def test_a_second_prediction_of_a_task_fails(tmp_path):
    stored = right_predictions()

    report = report_on([*stored, replace(stored[0], id=99)], tmp_path)

    assert (report.predicted, report.duplicates, report.passed) == (3, 1, False)


@pytest.mark.parametrize(("field", "value"), [("x", 60.0), ("rectanglelabels", ["white ring"])])
def test_wrong_places_or_labels_fail(tmp_path, field, value):
    stored = right_predictions()
    for prediction in stored:
        for region in prediction.result:
            region["value"][field] = value

    assert not report_on(stored, tmp_path).passed


def test_the_same_seed_gives_the_same_images():
    assert [image.file for image in make_images(3)] == [image.file for image in IMAGES]
    assert make_images(1, first_seed=1)[0].file != IMAGES[0].file


def test_the_label_config_asks_for_everything_that_is_drawn():
    labels = set(read_label_config(make_label_config()).prompts)

    assert {box.label for image in make_images(24) for box in image.boxes} <= labels
