"""Class-wise non-maximum suppression in plain torch: mmdet's GroundingDINO has none, and torchvision is not needed.

Called by `mmgdino.py`. Must not import anything but torch.
The greedy rule "keep a box unless a kept, better one of its class overlaps it" is solved for all boxes at once.
Example: `boxes[keep_best(boxes, labels, iou_threshold=0.7)]`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_best(xyxy: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes stay.

    Args:
        xyxy: (N, 4), the best first.
        labels: (N,) boxes of different labels never suppress each other.
        iou_threshold: a box stays up to this overlap with a better one that stays.

    Returns:
        (N,) bool.
    """
    beats = (pairwise_iou(xyxy) > iou_threshold) & (labels[:, None] == labels[None, :])  # (N, N)
    beats = beats.triu(diagonal=1)  # row i suppresses column j only if it comes first
    keep = torch.ones_like(labels, dtype=torch.bool)
    while True:
        # Each round settles at least the next box in order, so this ends; a few rounds do in practice.
        settled = ~(beats & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def pairwise_iou(xyxy: Tensor) -> Tensor:
    """Intersection over union of each box with each; 0 where both are empty. (N, 4) -> (N, N)."""
    upper_left = torch.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    lower_right = torch.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    shared = (lower_right - upper_left).clamp(min=0).prod(-1)
    areas = (xyxy[:, 2:] - xyxy[:, :2]).clamp(min=0).prod(-1)
    union = areas[:, None] + areas[None, :] - shared
    return shared / union.clamp(min=torch.finfo(xyxy.dtype).tiny)
