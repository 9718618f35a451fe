"""From scores of queries to the boxes of one image: threshold, best N, pixels, non-maximum suppression.

Called by `mmgdino.py`. Must not import backend or groundcrew.
It follows `GroundingDINOHead._predict_by_feat_single` (mmdet 3.3), which fails where there are fewer candidates than
`max_per_img`, knows one caption only and has no non-maximum suppression.
Example: `Selection((0, 1), (0, 1), limit=300, nms_iou=0.7).apply(gather_candidates(parts, sample, 0.3))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.detectors.base import Boxes
from worker.detectors.nms import keep_best
from worker.detectors.stack import DetDataSample, bbox_cxcywh_to_xyxy


@dataclass(frozen=True, eq=False)
class Candidates:
    """Boxes of one image over the score threshold, the best first."""

    xyxy_px: Tensor  # (N, 4) pixels of the image as it was given
    scores: Tensor  # (N,)
    name_ids: Tensor  # (N,) position in the list of distinct names


def gather_candidates(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]], sample: DetDataSample, score_threshold: float
) -> Candidates:
    """All pairs of query and name that score enough, over all captions.

    Args:
        parts: for each caption (Q, P) scores, (Q, 4) centre and size as fractions of the model's input, (P,) name ids.
        sample: knows `img_shape` (height, width of the model's input), `scale_factor` (x, y) and `ori_shape`.
        score_threshold: lowest score that counts.
    """
    chosen = [(scores >= score_threshold).nonzero(as_tuple=True) for scores, _, _ in parts]
    scores = torch.cat([part[0][pair] for part, pair in zip(parts, chosen, strict=True)])
    boxes = torch.cat([part[1][query] for part, (query, _) in zip(parts, chosen, strict=True)])
    name_ids = torch.cat([part[2][name] for part, (_, name) in zip(parts, chosen, strict=True)])
    order = scores.argsort(descending=True, stable=True)
    return Candidates(_to_pixels(boxes[order], sample), scores[order], name_ids[order])


@dataclass(frozen=True)
class Selection:
    """Which candidates become boxes, and of which prompt."""

    name_ids: tuple[int, ...]  #: name of each prompt; prompts of one name each get its boxes
    groups: tuple[int, ...]  #: group of each prompt; only boxes of one group suppress each other
    limit: int  #: most boxes, before they are repeated for equal prompts and before suppression
    nms_iou: float | None  #: largest overlap within a group; None for no suppression

    def apply(self, candidates: Candidates) -> Boxes:
        """The boxes of one image, the best first."""
        device = candidates.scores.device
        name_ids, groups = torch.tensor(self.name_ids, device=device), torch.tensor(self.groups, device=device)
        row, label = (candidates.name_ids[: self.limit, None] == name_ids).nonzero(as_tuple=True)
        xyxy, scores = candidates.xyxy_px[row], candidates.scores[row]
        if self.nms_iou is not None:
            keep = keep_best(xyxy, groups[label], self.nms_iou)
            xyxy, scores, label = xyxy[keep], scores[keep], label[keep]
        return Boxes(xyxy.cpu().numpy(), scores.cpu().numpy(), label.cpu().numpy())


def _to_pixels(cxcywh: Tensor, sample: DetDataSample) -> Tensor:
    height, width = sample.img_shape
    size = cxcywh.new_tensor([width, height, width, height])
    given = bbox_cxcywh_to_xyxy(cxcywh) * size / cxcywh.new_tensor(sample.scale_factor).repeat(2)
    height, width = sample.ori_shape  # without what a pipeline padded
    return given.clamp(min=torch.zeros_like(size), max=cxcywh.new_tensor([width, height, width, height]))
