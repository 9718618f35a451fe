"""Guarantees of worker/decision.py and worker/matches.py: a better model is promoted, luck is not.

Run by: pytest. Must not import: torch, backend.
Detectors are made up: of three boxes in each image they find as many as the test says.
Example: pytest tests/unit/test_decision.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.promotion import LABELS, find, look, make_image
from worker.decision import Decision, Findings, Rule, decide
from worker.detectors.base import Boxes
from worker.evaluate import Judged, Metrics, measure
from worker.matches import mean_ap

PLACES = np.array([[0, 0, 40, 40], [50, 0, 90, 40], [100, 0, 140, 40]], float)


def metrics(found: Sequence[int]) -> Metrics:
    """Of as many images, in each of which so many of its three boxes are found."""
    judged = [Judged(PLACES, [0, 0, 0], Boxes(PLACES[:count].astype(np.float32), np.full(count, 0.9),
                     np.zeros(count, np.int64)), [0]) for count in found]  # fmt: skip
    return measure(judged, ["thing"])


def judge(base: Sequence[int], candidate: Sequence[int], rule: Rule | None = None) -> Decision:
    return decide(Findings(metrics(base)), Findings(metrics(candidate)), rule)


def test_a_large_consistent_rise_on_five_images_is_promoted_and_said_to_rest_on_few() -> None:
    # given twenty annotated images, of which five measure / when the candidate finds all where the base found a third
    decision = judge([1, 1, 1, 1, 1], [3, 3, 3, 3, 3])
    # then
    assert decision.promoted, decision.reason
    assert "(on other images like these 5: +0.663 to +0.663)" in decision.reason
    assert decision.reason.endswith("This rests on few images: 5.")
    assert decision.evidence["few_images"] is True


def test_a_rise_within_the_noise_is_refused_with_its_interval_and_what_to_do() -> None:
    # given thirty images / when the candidate finds a box more in six of them, and a box less in five
    decision = judge([2] * 30, [3] * 6 + [1] * 5 + [2] * 19)
    # then
    assert decision.verdict == "chance"
    assert decision.evidence["rise"] > 0 > decision.evidence["lowest"]
    assert f"{decision.evidence['lowest']:+.3f} to {decision.evidence['highest']:+.3f}" in decision.reason
    for remedy in ("may be chance", "90%", "Annotate more images", "`groundcrew models promote`"):
        assert remedy in decision.reason
    assert "few images" not in decision.reason


def test_a_small_rise_that_all_images_agree_on_is_promoted() -> None:
    assert judge([2] * 30, [3] * 12 + [2] * 18).verdict == "better"


@pytest.mark.parametrize("candidate", [[2] * 30, [2] * 29 + [1]])
def test_no_rise_is_refused(candidate: list[int]) -> None:
    decision = judge([2] * 30, candidate)
    assert decision.verdict == "not_better"
    assert "it must rise" in decision.reason


@pytest.mark.parametrize(
    ("base", "candidate", "verdict"),
    [
        ([1], [3], "better"),
        ([2], [3], "few_images"),  # by a third, where one image has to show a half
        ([1, 1, 1], [3, 3, 3], "better"),
        ([1, 1, 1], [3, 3, 0], "few_images"),  # a rise, but not on each
        ([2, 2, 2], [3, 2, 2], "few_images"),
        ([2, 2, 2, 2], [3, 3, 3, 3], "better"),
        ([1, 1, 1, 2], [3, 3, 3, 1], "few_images"),
        ([0, 0, 0, 3], [3, 3, 3, 2], "few_images"),
    ],
)
def test_fewer_than_five_images_have_to_agree_on_a_large_rise(
    base: list[int], candidate: list[int], verdict: str
) -> None:
    decision = judge(base, candidate)
    assert decision.verdict == verdict, decision.reason
    assert "confidence" not in decision.evidence
    ends = f"{decision.evidence['lowest']:+.3f} to {decision.evidence['highest']:+.3f}"
    assert f"on each of these {len(base)}: {ends}" in decision.reason
    assert f"This rests on few images: {len(base)}." in decision.reason


def test_images_without_boxes_do_not_make_few_images_many() -> None:
    # given a box in three of forty images
    base, candidate = (measure([*_with_boxes(count), *[_empty()] * 37], ["thing"]) for count in (2, 3))
    # then
    decision = decide(Findings(base), Findings(candidate))
    assert decision.evidence["images"] == 3
    assert decision.verdict == "better"


def test_each_of_few_images_is_looked_at_whatever_would_be_drawn() -> None:
    # given a candidate that is worse on one of four images / when hardly anything is drawn
    decision = judge([1, 1, 1, 3], [3, 3, 3, 1], Rule(resamples=1))
    # then
    assert decision.verdict == "few_images"
    assert decision.evidence["lowest"] == pytest.approx(metrics([1]).map - 1, abs=1e-4)


def _with_boxes(found: int) -> list[Judged]:
    boxes = Boxes(PLACES[:found].astype(np.float32), np.full(found, 0.9), np.zeros(found, np.int64))
    return [Judged(PLACES, [0, 0, 0], boxes, [0])] * 3


def _empty() -> Judged:
    nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64))
    return Judged(np.zeros((0, 4)), [], nothing, [0])


def test_nothing_annotated_is_refused() -> None:
    empty = Findings(measure([_empty()], ["thing"]))
    assert decide(empty, empty).verdict == "no_boxes"


@pytest.mark.parametrize(("kept", "promoted"), [(0.881, True), (0.879, False)])
def test_little_may_be_forgotten(kept: float, promoted: bool) -> None:
    # given a candidate that is better on val / when it knows less of what the base knew
    general = [Metrics(ap50, ap50, {}, {}, 3, 9, np.zeros(101)) for ap50 in (0.9, kept)]
    decision = decide(Findings(metrics([1] * 9), general[0]), Findings(metrics([3] * 9), general[1]))
    # then
    assert decision.promoted is promoted
    assert f"0.900 to {kept:.3f}" in decision.reason
    assert ("was forgotten" in decision.reason) is not promoted


KNOWN = 30  #: labels of the project in the next two tests, before a new one is added


def among_known(new_found: int, known_wrong: int) -> Metrics:
    """Of ten images with three boxes of a new label each, and three boxes of known labels, each label once in all.

    So many of the new label's three are found in each image; and that many known labels are taken for another.
    """
    places = np.concatenate([PLACES, PLACES + np.array([0, 100, 0, 100])])
    judged = []
    for image in range(10):
        known = range(1 + 3 * image, 4 + 3 * image)
        labels = np.array([*[0] * new_found, *(0 if label <= known_wrong else label for label in known)])
        boxes = np.concatenate([places[:new_found], places[3:]]).astype(np.float32)
        found = Boxes(boxes, np.full(len(labels), 0.9), labels)
        judged.append(Judged(places, [0, 0, 0, *known], found, range(1 + KNOWN)))
    return measure(judged, [f"label {number}" for number in range(1 + KNOWN)])


def test_a_new_label_counts_by_its_boxes_not_as_one_of_many() -> None:
    # given half of the boxes are of a new label / when it is learned, and one of thirty known labels gets worse
    base, candidate = among_known(0, 0), among_known(3, 1)
    # then mAP has hardly seen it, which alone would be chance, but weighted mAP has
    assert abs(candidate.map - base.map) < 0.002
    assert base.weighted_map == pytest.approx(0.5)
    decision = decide(Findings(base), Findings(candidate))
    assert decision.promoted, decision.reason
    assert decision.evidence["lowest"] > 0.3
    assert "weighted mAP on val went from 0.500 to" in decision.reason


def test_labels_with_few_boxes_are_not_given_up_for_one_with_many() -> None:
    # given the same / when it is learned, but three of thirty known labels are found no more
    base, candidate = among_known(0, 0), among_known(3, 3)
    decision = decide(Findings(base), Findings(candidate))
    # then
    assert decision.evidence["lowest"] > 0.2
    assert (decision.verdict, decision.promoted) == ("uneven", False)
    for said in (f"{base.map:.3f} to {candidate.map:.3f}", "may fall by 0.02", "labels that got worse"):
        assert said in decision.reason
    assert decide(Findings(base), Findings(candidate), Rule(most_fallen=0.1)).promoted


def test_a_surer_rule_is_stricter() -> None:
    base, candidate = [2] * 30, [3] * 10 + [1] * 4 + [2] * 16
    assert judge(base, candidate).verdict == "better"
    assert judge(base, candidate, Rule(confidence=0.99)).verdict == "chance"


def test_the_same_measurements_give_the_same_decision() -> None:
    images = [make_image(np.random.default_rng(number)) for number in range(12)]
    first, second = (
        decide(find(dice, images, 0.5), find(dice, images, 0.9))
        for dice in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second
    assert first.evidence["lowest"] < first.evidence["rise"] < first.evidence["highest"]


def test_the_rule_says_its_own_numbers() -> None:
    said = Rule(confidence=0.95, fewest_images=7, most_fallen=0.01, most_forgetting=0.03).describe()
    assert all(number in said for number in ("95%", "than 7 images", "at most 0.01; AP50", "at most 0.03"))


def test_at_most_one_in_seven_equally_good_candidates_is_promoted() -> None:
    # given forty candidates that are as good as their base, each measured on six images
    promoted = 0
    for pair in range(40):
        dice = np.random.default_rng([2, pair])
        images = [make_image(dice) for _ in range(6)]
        promoted += decide(find(dice, images, 0.5), find(dice, images, 0.5)).promoted
    # then about one in ten, where "any rise" would promote twenty
    assert promoted <= 40 / 7


# -- average precision of images that count several times ------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_an_image_that_counts_twice_counts_as_two_for_coco(seed: int) -> None:
    # given made-up finds in eight images / when some count several times and some not at all
    dice = np.random.default_rng(seed)
    judged = [look(dice, make_image(dice), 0.5) for _ in range(8)]
    times = dice.multinomial(8, np.full(8, 1 / 8), size=3)
    matches = measure(judged, LABELS).matches
    found, weighted = mean_ap(matches, times), mean_ap(matches, times, weighted=True)
    # then mAP is what pycocotools says of a data set in which they are repeated
    for row, ours, ours_weighted in zip(times, found, weighted, strict=True):
        repeated = [image for image, count in zip(judged, row, strict=True) for _ in range(count)]
        coco = measure(repeated, LABELS)
        assert ours == pytest.approx(coco.map, abs=1e-9)
        boxes = [sum(LABELS[label] == name for one in repeated for label in one.truth) for name in coco.per_class_ap]
        assert ours_weighted == pytest.approx(np.average(list(coco.per_class_ap.values()), weights=boxes), abs=1e-9)


def test_images_that_show_nothing_have_no_average_precision() -> None:
    matches = measure([*_with_boxes(1)[:1], _empty()], ["thing"]).matches
    assert np.isnan(mean_ap(matches, np.array([[0, 2]])))
    assert mean_ap(matches, np.array([[1, 1]])) == pytest.approx(metrics([1]).map)
