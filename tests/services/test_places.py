"""Boxes lie where the objects are: a fault of 2 % in place, or a wrong label, must not get through the whole chain.

Called by: pytest.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_places.py
"""

from statistics import mean

import pytest

from groundcrew.boxes import Agreement, LabelledBox, add_up, box_of_region, compare
from groundcrew.demo.scenes import make_images, make_label_config
from tests.services.waiting import wait_for_predictions

IMAGES = make_images(24)
#: Mean of an edge over all boxes, in percent of the image. The model's own scatter averages out; a fault does not.
LARGEST_OFFSET_PCT = 1.2


@pytest.fixture(scope="module")
def agreement(label_studio, crew) -> Agreement:
    """Predicted and drawn boxes, in percent of their image, so that sizes do not matter."""
    project = label_studio.create_project("places", make_label_config())
    label_studio.connect_backend(project, crew.url, title="groundcrew")
    label_studio.upload_images(project, [image.file for image in IMAGES])
    stored = wait_for_predictions(label_studio, project, len(IMAGES))
    names = label_studio.image_names(project)
    label_studio.delete_project(project)
    results = {names[prediction.task]: prediction.result for prediction in stored}
    return add_up(
        compare(
            [in_percent(box, image.picture.size) for box in image.boxes],
            [in_percent(box_of_region(region), image.picture.size) for region in results[image.file.name]],
        )
        for image in IMAGES
    )


def in_percent(box: LabelledBox, size_px: tuple[int, int]) -> LabelledBox:
    left, top, right, bottom = box.xyxy_px
    width, height = size_px[0] / 100, size_px[1] / 100
    return LabelledBox(box.label, (left / width, top / height, right / width, bottom / height), box.score)


def test_nearly_all_objects_are_found_under_their_own_label(agreement):
    assert agreement.recall >= 0.9, f"missed: {agreement.missed}"
    assert len(agreement.extra) <= 0.15 * len(agreement.found), f"wrong: {agreement.extra}"


@pytest.mark.parametrize("edge", [0, 1, 2, 3], ids=["left", "top", "right", "bottom"])
def test_no_edge_is_shifted(agreement, edge):
    offset_pct = mean(box.xyxy_px[edge] - known.xyxy_px[edge] for known, box, _ in agreement.found)

    assert abs(offset_pct) < LARGEST_OFFSET_PCT
