"""Guarantees of worker/detectors/nms.py: it equals the greedy rule, box by box, for any boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.detectors.nms import keep_best, pairwise_iou


def greedy(xyxy: Tensor, labels: Tensor, iou_threshold: float) -> list[bool]:
    """The textbook rule, one box after the other."""
    kept: list[int] = []
    for box in range(len(xyxy)):
        overlaps = (float(pairwise_iou(xyxy[[box, other]])[0, 1]) for other in kept if labels[other] == labels[box])
        if all(overlap <= iou_threshold for overlap in overlaps):
            kept.append(box)
    return [box in kept for box in range(len(xyxy))]


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_the_greedy_rule(seed: int) -> None:
    # Given crowded boxes of three labels: chains where a suppressed box would have suppressed another
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=random) * 30
    xyxy = torch.cat([corner, corner + 20 + torch.rand(60, 2, generator=random) * 10], 1)
    labels = torch.randint(3, (60,), generator=random)

    keep = keep_best(xyxy, labels, iou_threshold=0.5)

    assert keep.tolist() == greedy(xyxy, labels, 0.5)
    assert 3 < keep.sum() < 60


def test_a_suppressed_box_suppresses_nothing() -> None:
    # Given three boxes in a row, each overlapping only its neighbours by half
    xyxy = torch.tensor([[0.0, 0, 30, 10], [10, 0, 40, 10], [20, 0, 50, 10]])

    assert keep_best(xyxy, torch.zeros(3), iou_threshold=0.4).tolist() == [True, False, True]


def test_other_labels_do_not_suppress() -> None:
    xyxy = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)

    assert keep_best(xyxy, torch.tensor([0, 1, 0]), iou_threshold=0.5).tolist() == [True, True, False]


def test_an_overlap_at_the_threshold_stays() -> None:
    xyxy = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])

    assert keep_best(xyxy, torch.zeros(2), iou_threshold=0.5).all()


def test_boxes_without_area_and_no_boxes_are_fine() -> None:
    assert keep_best(torch.zeros(2, 4), torch.zeros(2), iou_threshold=0.5).all()
    assert keep_best(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5).shape == (0,)


def test_iou_is_intersection_over_union() -> None:
    xyxy = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 30, 30]])

    assert pairwise_iou(xyxy)[0].tolist() == pytest.approx([1, 25 / 175, 0])
