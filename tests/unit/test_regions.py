"""Boxes in pixels -> Label Studio regions in percent.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/unit/test_regions.py
"""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.labels import read_label_config
from contract.regions import DetectedBox, boxes_to_result, prediction_score

MAP = read_label_config("""<View><Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="car" predicted_values="car,auto"/><Label value="红绿灯" alias="traffic_light"/>
    <Label value="cat" model_score_threshold="0.6"/>
  </RectangleLabels>
  <RectangleLabels name="second" toName="image"><Label value="Car"/></RectangleLabels></View>""")
CAR, AUTO, LIGHT, CAT = range(4)


def test_a_box_becomes_a_region_as_label_studio_stores_it() -> None:
    # given a traffic light from (64, 48) to (160, 96) in an image of 640 x 480
    box = DetectedBox(64, 48, 160, 96, 0.87654321, LIGHT)

    # when
    (region,) = boxes_to_result(MAP, [box], width_px=640, height_px=480)

    # then
    identity = region.pop("id")  # type: ignore[misc]
    assert region == {
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "score": 0.8765,
        "value": {
            "x": 10.0, "y": 10.0, "width": 15.0, "height": 10.0, "rotation": 0, "rectanglelabels": ["traffic_light"],
        },
    }  # fmt: skip
    assert len(str(identity)) == 10


def test_ids_are_stable_and_differ_within_one_result() -> None:
    # given three boxes, two of them at the same place with different labels
    here, near = (0, 0, 10, 10, 0.9), (1, 0, 9, 9, 0.9)
    boxes = [DetectedBox(*here, CAR), DetectedBox(*here, LIGHT), DetectedBox(*near, CAR)]

    # when
    first = [region["id"] for region in boxes_to_result(MAP, boxes, width_px=100, height_px=100)]
    again = [region["id"] for region in boxes_to_result(MAP, boxes, width_px=100, height_px=100)]

    # then
    assert first == again
    assert len(set(first)) == len(first) == 5


def test_a_prompt_in_two_controls_gives_a_box_in_each() -> None:
    # given / when
    regions = boxes_to_result(MAP, [DetectedBox(0, 0, 5, 5, 0.9, CAR)], width_px=10, height_px=10)

    # then
    found = [(region["from_name"], region["value"]["rectanglelabels"]) for region in regions]
    assert found == [("label", ["car"]), ("second", ["Car"])]


def test_the_same_box_from_two_synonyms_is_kept_once_with_the_better_score() -> None:
    # given
    boxes = [DetectedBox(0, 0, 5, 5, 0.5, AUTO), DetectedBox(0, 0, 5, 5, 0.8, CAR)]

    # when
    regions = boxes_to_result(MAP, boxes, width_px=10, height_px=10)

    # then
    assert [(r["from_name"], r["score"]) for r in regions] == [("label", 0.8), ("second", 0.8)]


def test_a_label_uses_its_own_threshold_and_the_others_the_given_one() -> None:
    # given cats at 0.59 and 0.6, lights at 0.39 and 0.4
    boxes = [DetectedBox(i, 0, i + 5, 5, score, prompt) for i, (score, prompt) in enumerate(
        [(0.59, CAT), (0.6, CAT), (0.39, LIGHT), (0.4, LIGHT)])]  # fmt: skip

    # when
    regions = boxes_to_result(MAP, boxes, width_px=10, height_px=10, score_threshold=0.4)

    # then the best comes first
    assert [region["score"] for region in regions] == [0.6, 0.4]


def test_boxes_outside_the_image_are_cut_off_or_left_out() -> None:
    # given one box that hangs over two edges, one wholly outside, one without area
    boxes = [
        DetectedBox(-20, 50, 30, 130, 0.9, LIGHT),
        DetectedBox(110, 10, 130, 20, 0.9, LIGHT),
        DetectedBox(5, 5, 5, 9, 0.9, LIGHT),
    ]

    # when
    (region,) = boxes_to_result(MAP, boxes, width_px=100, height_px=100)

    # then
    value = region["value"]
    assert [value["x"], value["y"], value["width"], value["height"]] == [0, 50, 30, 50]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_detector_that_gives_no_numbers_is_an_error(number: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        boxes_to_result(MAP, [DetectedBox(0, 0, number, 5, 0.9, CAR)], width_px=10, height_px=10)


def test_the_score_of_a_prediction_is_the_mean_and_zero_without_boxes() -> None:
    # given
    boxes = [DetectedBox(0, 0, 5, 5, 0.9, LIGHT), DetectedBox(5, 5, 9, 9, 0.6, LIGHT)]

    # when / then
    assert prediction_score(boxes_to_result(MAP, boxes, width_px=10, height_px=10)) == 0.75
    assert prediction_score([]) == 0.0


def test_on_request_it_is_the_most_doubtful_region_and_one_without_boxes() -> None:
    # Label Studio's uncertainty sampling shows the lowest score first
    boxes = [DetectedBox(0, 0, 5, 5, 0.9, LIGHT), DetectedBox(5, 5, 9, 9, 0.6, LIGHT)]
    assert prediction_score(boxes_to_result(MAP, boxes, width_px=10, height_px=10), "uncertainty") == 0.6
    assert prediction_score([], "uncertainty") == 1.0


coordinates = st.floats(-1e4, 2e4, allow_nan=False)
sides = st.integers(1, 20_000)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), max_size=5), sides, sides)
def test_percent_is_always_inside_the_image(places: list[tuple[float, ...]], width_px: int, height_px: int) -> None:
    # given any boxes / when
    boxes = [DetectedBox(*place, score=0.5, prompt_index=LIGHT) for place in places]  # type: ignore[call-arg, misc]
    regions = boxes_to_result(MAP, boxes, width_px=width_px, height_px=height_px)

    # then
    for value in (region["value"] for region in regions):
        assert 0 <= value["x"] <= value["x"] + value["width"] <= 100
        assert 0 <= value["y"] <= value["y"] + value["height"] <= 100
        assert value["width"] > 0
        assert value["height"] > 0
    json.dumps(regions, allow_nan=False)


@settings(deadline=None)  # a busy machine is no failure
@given(sides, sides, st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0.001, 1), st.floats(0.001, 1))
def test_percent_turns_back_into_the_same_pixels(
    width_px: int, height_px: int, left: float, top: float, right: float, bottom: float
) -> None:
    # given a box inside the image
    x1, y1 = left * width_px, top * height_px
    x2, y2 = x1 + right * (width_px - x1), y1 + bottom * (height_px - y1)

    # when
    (region,) = boxes_to_result(MAP, [DetectedBox(x1, y1, x2, y2, 0.5, LIGHT)], width_px=width_px, height_px=height_px)

    # then
    value = region["value"]
    back = [
        value["x"] / 100 * width_px, value["y"] / 100 * height_px,
        (value["x"] + value["width"]) / 100 * width_px, (value["y"] + value["height"]) / 100 * height_px,
    ]  # fmt: skip
    assert back == pytest.approx([x1, y1, x2, y2], abs=1e-6)
