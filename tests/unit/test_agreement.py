"""Agreement of predicted with submitted boxes, against cases worked out by hand.

Run by: pytest. Must not import: anything but contract.agreement.
Example: pytest tests/unit/test_agreement.py
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.agreement import Box, Counts, add_up, compare, measure_iou, read_boxes

CAR = Box("car", 10, 10, 30, 30)
FAR = Box("car", 60, 60, 80, 80)


def moved(box: Box, by_pct: float) -> Box:
    return Box(box.label, box.x1 + by_pct, box.y1, box.x2 + by_pct, box.y2)


def region(label: str = "car", **value: object) -> dict[str, object]:
    place = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "original_width": 200, "original_height": 100, "value": place | value}


def test_iou_by_hand() -> None:
    # given 20 x 20 boxes, one shifted by 10: common 10 x 20 = 200, together 400 + 400 - 200 = 600 / then
    assert measure_iou(CAR, moved(CAR, 10)) == pytest.approx(1 / 3)
    # shifted by 5: 300 of 500
    assert measure_iou(CAR, moved(CAR, 5)) == pytest.approx(0.6)
    assert measure_iou(CAR, FAR) == 0
    assert measure_iou(CAR, Box("car", 30, 10, 50, 30)) == 0  # they touch
    assert measure_iou(CAR, CAR) == 1


@pytest.mark.parametrize(
    ("predicted", "submitted", "expected"),
    [
        ([], [], {}),
        ([CAR], [CAR], {"car": Counts(kept=1)}),
        ([CAR], [moved(CAR, 0.05)], {"car": Counts(kept=1)}),  # rounding of an editor
        ([CAR], [moved(CAR, 5)], {"car": Counts(moved=1)}),  # IoU 0.6
        ([CAR], [moved(CAR, 10)], {"car": Counts(deleted=1, added=1)}),  # IoU 1/3: not the same object
        ([CAR], [], {"car": Counts(deleted=1)}),
        ([], [CAR], {"car": Counts(added=1)}),
        ([CAR], [CAR._replace(label="bus")], {"car": Counts(relabelled=1), "bus": Counts(added=1)}),
        ([CAR, CAR], [CAR], {"car": Counts(kept=1, deleted=1)}),  # a doubled prediction
        ([CAR, FAR], [FAR, CAR], {"car": Counts(kept=2)}),  # order does not matter
    ],
)
def test_what_became_of_each_box(predicted: list[Box], submitted: list[Box], expected: dict[str, Counts]) -> None:
    assert compare(predicted, submitted) == expected


def test_an_untouched_box_finds_itself_beside_a_neighbour() -> None:
    # given a prediction whose box lies over its neighbour with IoU 0.6, and an annotator who deleted one of the two
    neighbour = moved(CAR, 5)

    # when / then: the one that stayed is the untouched one, whichever comes first
    assert compare([neighbour, CAR], [CAR]) == {"car": Counts(kept=1, deleted=1)}
    assert compare([CAR, neighbour], [neighbour]) == {"car": Counts(kept=1, deleted=1)}


def test_precision_recall_and_f1_by_hand() -> None:
    # given 10 predicted boxes: 5 kept, 2 moved, 1 relabelled, 2 deleted; and 3 that annotators had to add
    counts = Counts(kept=5, moved=2, relabelled=1, deleted=2, added=3)

    # then 7 of 10 predicted were right, and 7 of 10 submitted were predicted
    assert (counts.predicted, counts.submitted) == (10, 10)
    assert (counts.precision, counts.recall, counts.f1) == (0.7, 0.7, 0.7)
    assert Counts(kept=1, added=3).f1 == pytest.approx(2 * 1 * 0.25 / 1.25)  # precision 1, recall 1/4
    assert (Counts().precision, Counts().recall, Counts().f1) == (None, None, 1.0)


def test_one_image_of_three_labels_by_hand() -> None:
    # given two cars, of which one is kept and one is deleted; a bus that was moved; a van that was added
    bus, van = Box("bus", 0, 50, 50, 100), Box("van", 50, 0, 60, 10)
    found = compare([CAR, FAR, bus], [CAR, moved(bus, 10), van])

    # then (the bus: 40 of 60 wide, IoU 2/3)
    assert found == {"car": Counts(kept=1, deleted=1), "bus": Counts(moved=1), "van": Counts(added=1)}
    total = add_up(found.values())
    assert (total.precision, total.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


BOXES = st.lists(
    st.builds(
        lambda label, x, y, width, height: Box(label, x, y, x + width, y + height),
        st.sampled_from(["car", "bus"]),
        *[st.integers(0, 50)] * 2,
        *[st.integers(1, 50)] * 2,
    ),
    max_size=8,
)


@given(BOXES, BOXES)
def test_every_box_is_counted_once(predicted: list[Box], submitted: list[Box]) -> None:
    total = add_up(compare(predicted, submitted).values())
    assert total.predicted == len(predicted)
    assert total.submitted == len(submitted)
    assert 0 <= total.f1 <= 1


@given(BOXES)
def test_what_nobody_touched_is_kept(boxes: list[Box]) -> None:
    assert add_up(compare(boxes, boxes).values()) == Counts(kept=len(boxes))


def test_regions_are_read_and_everything_else_is_left_out() -> None:
    # given / when
    result = [
        region(), region("bus", rectanglelabels=["bus", "coach"]), region(rectanglelabels=[]), region(x="far"),
        region(x=float("nan")), {"type": "choices", "value": {"choices": ["night"]}}, {"type": "rectanglelabels"}, "a",
    ]  # fmt: skip

    # then
    assert read_boxes(result) == (
        Box("car", 10, 20, 40, 60), Box("bus", 10, 20, 40, 60), Box("coach", 10, 20, 40, 60))  # fmt: skip
    assert read_boxes(None) == read_boxes({}) == ()


def test_a_turned_rectangle_is_the_upright_one_around_it() -> None:
    # given an image of 200 x 100 px and a rectangle of 60 x 40 px at (20, 20), turned by 90 degrees clockwise / then it
    # covers 40 px to the left of its corner and 60 px below it: x from -20 to 20 px, y from 20 to 80 px
    (box,) = read_boxes([region(rotation=90)])
    assert box[1:] == pytest.approx((-10, 20, 10, 80))
