"""How well predicted boxes agree with known ones: a wrong label or a shifted box must show.

Called by: pytest.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/unit/test_boxes.py
"""

import pytest

from groundcrew.boxes import Agreement, LabelledBox, add_up, box_of_region, compare, measure_iou

CIRCLE = LabelledBox("circle", (10.0, 10.0, 30.0, 50.0))


def predicted(label="circle", *, shift_px=0.0, score=0.9) -> LabelledBox:
    left, top, right, bottom = CIRCLE.xyxy_px
    return LabelledBox(label, (left + shift_px, top, right + shift_px, bottom), score)


@pytest.mark.parametrize(
    ("second", "iou"),
    [
        ((10, 10, 30, 50), 1.0),
        ((20, 10, 40, 50), 1 / 3),
        ((30, 10, 50, 50), 0.0),  # they only touch
        ((60, 60, 70, 70), 0.0),
        ((15, 20, 25, 40), 0.25),  # inside
    ],
)
def test_iou(second, iou):
    assert measure_iou(CIRCLE.xyxy_px, second) == pytest.approx(iou)
    assert measure_iou(second, CIRCLE.xyxy_px) == pytest.approx(iou)


def test_empty_boxes_have_no_iou():
    assert measure_iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0.0


def test_an_exact_box_is_found():
    agreement = compare([CIRCLE], [predicted()])

    assert (agreement.recall, agreement.mean_iou, agreement.extra) == (1.0, 1.0, ())


def test_a_wrong_label_is_a_miss_and_an_extra_box():
    wrong = predicted("square")

    assert compare([CIRCLE], [wrong]) == Agreement((), (CIRCLE,), (wrong,))


def test_a_box_shifted_by_half_its_width_is_a_miss():
    assert compare([CIRCLE], [predicted(shift_px=10)]).recall == 0.0


def test_a_small_shift_shows_in_the_mean_iou():
    assert compare([CIRCLE], [predicted(shift_px=1)]).mean_iou == pytest.approx(19 / 21)


def test_a_known_box_is_found_once_by_the_better_score():
    best, second = predicted(score=0.9), predicted(score=0.8)

    agreement = compare([CIRCLE], [second, best])

    assert [box for _, box, _ in agreement.found] == [best]
    assert agreement.extra == (second,)


def test_nothing_known_and_nothing_predicted_is_full_agreement():
    assert compare([], []).recall == 1.0


def test_images_are_added_up_by_their_boxes_not_averaged():
    one = compare([CIRCLE], [predicted()])
    other = compare([CIRCLE, CIRCLE, CIRCLE], [])

    assert add_up([one, other]).recall == 0.25


def test_a_region_in_percent_becomes_a_box_in_pixels():
    region = {
        "original_width": 200, "original_height": 100, "score": 0.7,
        "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["red circle"]},
    }  # fmt: skip

    assert box_of_region(region) == LabelledBox("red circle", (20, 20, 80, 60), 0.7)
