"""One task's annotations -> the boxes that are trained on: which annotation, which regions, where exactly.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_annotations.py
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import TrainingDataError
from contract.labels import read_label_config
from contract.regions import DetectedBox, boxes_to_result
from worker.annotations import choose_annotation, read_boxes, read_project_labels
from worker.dataset import Category, LabelledBox

MAP = read_label_config("""<View><Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="car" predicted_values="car,auto"/><Label value="红绿灯" alias="traffic_light"/>
    <Label value="wagon" predicted_values="car,auto"/><Label value="_"/>
  </RectangleLabels>
  <RectangleLabels name="second" toName="image"><Label value="cat"/></RectangleLabels></View>""")
LABELS = read_project_labels(MAP)
CAR, LIGHT, CAT = 1, 2, 3
SIZE = {"width_px": 200, "height_px": 100}


def region(*labels: str, place_pct=(10, 20, 30, 40), rotation=0, size_px=(200, 100), **others) -> dict:
    x, y, width, height = place_pct
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": list(labels)}
    width_px, height_px = size_px
    size = {"original_width": width_px, "original_height": height_px, "image_rotation": 0}
    return {"type": "rectanglelabels", "from_name": "label", "to_name": "image", **size, "value": value, **others}


def annotation(*results: dict, **others) -> dict:
    return {"id": 1, "was_cancelled": False, "ground_truth": False, "result": list(results), **others}


def test_percent_become_pixels_of_the_image() -> None:
    # given / when
    boxes, notes = read_boxes(annotation(region("car")), LABELS, **SIZE)

    # then
    assert boxes == (LabelledBox(20.0, 20.0, 60.0, 40.0, CAR),)
    assert not notes


@given(
    width_px=st.integers(8, 8000), height_px=st.integers(8, 8000),
    left=st.floats(0, 0.5), top=st.floats(0, 0.5), width=st.floats(0.2, 0.5), height=st.floats(0.2, 0.5),
)  # fmt: skip
def test_a_box_comes_back_as_it_was_written(width_px, height_px, left, top, width, height) -> None:
    # given a predicted box that an annotator accepted as it is
    edges_px = (left * width_px, top * height_px, (left + width) * width_px, (top + height) * height_px)
    results = boxes_to_result(MAP, [DetectedBox(*edges_px, 0.9, 0)], width_px=width_px, height_px=height_px)

    # when
    boxes, _ = read_boxes(annotation(*results), LABELS, width_px=width_px, height_px=height_px)

    # then
    (box,) = boxes
    back_px = (box.x_px, box.y_px, box.x_px + box.width_px, box.y_px + box.height_px)
    assert back_px == pytest.approx(edges_px, abs=1e-9 * max(width_px, height_px))


def test_labels_are_known_by_alias_and_by_value_and_share_a_category_with_their_synonyms() -> None:
    # given / when
    names = ["traffic_light", "红绿灯", "car", "wagon", "cat"]
    found = {name: read_boxes(annotation(region(name)), LABELS, **SIZE).boxes[0].category_id for name in names}

    # then
    assert found == {"traffic_light": LIGHT, "红绿灯": LIGHT, "car": CAR, "wagon": CAR, "cat": CAT}
    assert LABELS.categories[:2] == (
        Category(1, "car", ("car", "auto")),
        Category(2, "traffic_light", ("traffic light",)),
    )


def test_a_box_with_two_labels_is_one_of_each() -> None:
    boxes, _ = read_boxes(annotation(region("car", "cat")), LABELS, **SIZE)

    assert [box.category_id for box in boxes] == [CAR, CAT]


def test_what_is_no_box_of_a_known_label_is_counted_by_reason() -> None:
    # given a car, and much else
    results = [
        region("car"), region("dog"), region("dog"), region("_"), region(), region("cat", to_name="other"),
        region(type="polygonlabels"), region(type="brushlabels"), region(type="keypoint"), region(type="polygonlabels"),
        {"type": "choices", "to_name": "image", "value": {"choices": ["sharp"]}},
    ]  # fmt: skip

    # when
    boxes, notes = read_boxes(annotation(*results), LABELS, **SIZE)

    # then
    assert [box.category_id for box in boxes] == [CAR]
    assert notes == {
        'box ignored: the label config has no label "dog"': 2,
        'box ignored: the label "_" has no prompt': 1,
        "box ignored: it has no label": 1,
        "region ignored: it lies on another object than the image": 1,
        "region ignored: polygonlabels, not rectanglelabels": 2,
        "region ignored: brushlabels, not rectanglelabels": 1,
        "region ignored: keypoint, not rectanglelabels": 1,
    }


def test_a_rotated_box_is_replaced_by_the_upright_box_around_it() -> None:
    # given a box of 60 x 40 pixels at (100, 20), turned clockwise by a quarter about that corner
    quarter = region("car", place_pct=(50, 20, 30, 40), rotation=90)

    # when
    boxes, notes = read_boxes(annotation(quarter), LABELS, **SIZE)

    # then it hangs to the left of the corner
    assert tuple(boxes[0][:4]) == pytest.approx((60, 20, 40, 60))
    assert notes == {"rotated box replaced by the upright box around it": 1}


def test_a_box_turned_by_30_degrees() -> None:
    # given 20 x 10 pixels at (100, 50)
    turned = region("car", place_pct=(50, 50, 10, 10), rotation=30)

    # when
    (box,) = read_boxes(annotation(turned), LABELS, **SIZE).boxes

    # then, with the sine and cosine of 30 degrees
    sine, cosine = 0.5, math.sqrt(3) / 2
    expected = (100 - 10 * sine, 50, 20 * cosine + 10 * sine, 20 * sine + 10 * cosine)
    assert tuple(box[:4]) == pytest.approx(expected)


def test_boxes_are_cut_off_at_the_edges_and_slivers_dropped() -> None:
    # given one over each corner, one outside, one of 0.8 pixels, one of exactly 1 pixel, and one with no numbers
    places = [
        (-10, -10, 20, 20),
        (90, 90, 20, 20),
        (101, 0, 5, 5),
        (10, 10, 0.4, 10),
        (10, 10, 0.5, 10),
        (None, 0, 5, 5),
    ]
    results = [region("car", place_pct=place) for place in places]

    # when
    boxes, notes = read_boxes(annotation(*results), LABELS, **SIZE)

    # then
    assert [box[:4] for box in boxes] == [(0, 0, 20, 10), (180, 90, 20, 10), (20, 10, 1, 10)]
    assert notes == {
        "box cut off at the edge of the image": 2,
        "box dropped: less than 1 pixel of it is inside the image": 2,
        "box dropped: its place is not given in numbers": 1,
    }


def test_a_box_on_a_resized_copy_is_scaled() -> None:
    boxes, _ = read_boxes(annotation(region("car", size_px=(1001, 500))), LABELS, **SIZE)

    assert boxes == (LabelledBox(20.0, 20.0, 60.0, 40.0, CAR),)


def test_a_box_on_another_or_a_turned_picture_makes_the_task_useless() -> None:
    # given sides the wrong way round, as when a phone's photo was measured without its orientation; or turned by hand
    for other in (region("car", size_px=(100, 200)), region("car", image_rotation=90)):
        # when / then
        with pytest.raises(TrainingDataError, match=r"drawn on 100 x 200 pixels|turned by 90 degrees"):
            read_boxes(annotation(region("car"), other), LABELS, **SIZE)


def test_a_region_without_its_original_size_is_taken_as_it_is() -> None:
    bare = region("car", original_width=None, original_height=None)

    assert len(read_boxes(annotation(bare), LABELS, **SIZE).boxes) == 1


def test_an_empty_annotation_says_that_nothing_is_there() -> None:
    # given nothing at all, and nothing but an opinion on the whole image
    opinion = {"type": "choices", "to_name": "image", "value": {"choices": ["sharp"]}}

    # when / then
    assert read_boxes(annotation(), LABELS, **SIZE).boxes == ()
    assert read_boxes(annotation(opinion), LABELS, **SIZE).boxes == ()


def test_an_image_with_nothing_but_unusable_regions_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(TrainingDataError, match="usable box: region ignored: polygonlabels"):
        read_boxes(annotation(region("car", type="polygonlabels")), LABELS, **SIZE)


def test_ground_truth_comes_before_the_latest_and_the_latest_before_the_others() -> None:
    # given
    early = annotation(id=3, updated_at="2026-01-01T00:00:05Z")
    late = annotation(id=2, updated_at="2026-01-01T00:00:05.5Z")  # text order would put it first
    truth = annotation(id=1, updated_at="2025-01-01T00:00:00Z", ground_truth=True)
    skipped = annotation(id=4, updated_at="2027-01-01T00:00:00Z", was_cancelled=True)

    # when
    chosen = {
        "two": choose_annotation({"annotations": [late, early]}),
        "truth": choose_annotation({"annotations": [early, truth, late]}),
        "skip": choose_annotation({"annotations": [skipped, early]}),
    }

    # then
    several, skips = "task with several annotations: one was chosen", "skipped annotation ignored"
    assert {name: (found["id"], dict(notes)) for name, (found, notes) in chosen.items()} == {
        "two": (2, {several: 1}), "truth": (1, {several: 1}), "skip": (3, {skips: 1}),
    }  # fmt: skip


def test_a_task_that_everyone_skipped_is_not_used() -> None:
    with pytest.raises(TrainingDataError, match="skipped"):
        choose_annotation({"annotations": [annotation(was_cancelled=True)]})
