"""From scores of queries to the boxes of one image: threshold, best N, pixels, non-maximum suppression.

Called by `mmgdino.py`. Must not import backend or groundcrew.
It follows `GroundingDINOHead._predict_by_feat_single` (mmdet 3.3), which fails where there are fewer candidates than
`max_per_img`, knows one caption only and has no non-maximum suppression.
Example: `select_boxes(gather_candidates(parts, sample, 0.3), owners, limit=300, nms_iou=0.7)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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
        sample: knows `img_shape` (height, width of the resized image) and `scale_factor` (x, y).
        score_threshold: lowest score that counts.
    """
    chosen = [(scores >= score_threshold).nonzero(as_tuple=True) for scores, _, _ in parts]
    scores = torch.cat([part[0][pair] for part, pair in zip(parts, chosen, strict=True)])
    boxes = torch.cat([part[1][query] for part, (query, _) in zip(parts, chosen, strict=True)])
    name_ids = torch.cat([part[2][name] for part, (_, name) in zip(parts, chosen, strict=True)])
    order = scores.argsort(descending=True, stable=True)
    return Candidates(_to_pixels(boxes[order], sample), scores[order], name_ids[order])


def select_boxes(candidates: Candidates, owners: NDArray[np.int64], limit: int, nms_iou: float | None) -> Boxes:
    """The best `limit` candidates, without those that a better one of the same name overlaps.

    Args:
        candidates: of one image.
        owners: (prompts,) name id of each prompt; prompts of one name each get its boxes.
        limit: most boxes, before suppression and before equal prompts are repeated.
        nms_iou: largest overlap within one name; None for no suppression.
    """
    xyxy, scores, name_ids = candidates.xyxy_px[:limit], candidates.scores[:limit], candidates.name_ids[:limit]
    keep = torch.ones_like(name_ids, dtype=torch.bool) if nms_iou is None else keep_best(xyxy, name_ids, nms_iou)
    box, prompt = np.nonzero(name_ids[keep].cpu().numpy()[:, None] == owners[None, :])
    return Boxes(
        xyxy_px=xyxy[keep].float().cpu().numpy()[box],
        scores=scores[keep].float().cpu().numpy()[box],
        labels=prompt,
    )


def _to_pixels(cxcywh: Tensor, sample: DetDataSample) -> Tensor:
    height, width = sample.img_shape
    size = cxcywh.new_tensor([width, height, width, height])
    resized = (bbox_cxcywh_to_xyxy(cxcywh) * size).clamp(min=torch.zeros_like(size), max=size)
    return resized / cxcywh.new_tensor(sample.scale_factor).repeat(2)
