"""How good detections are: AP50 of COCO by name, precision and recall at a threshold.

Called by evaluate_tiny.py and tests.
Must not import torch or mmdet; pycocotools only when called.
Example: `ap50_by_name([Judged(truth, found, names)])["red circle"]`.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundcrew.zoo.detection import Detections, overlaps

LEAST_IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """One picture: what was asked for, what is there and what was found."""

    names: Sequence[str]
    boxes_xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels
    labels: NDArray[np.int64]  # (N,) number of the name of each true box
    found: Detections


@dataclass(frozen=True)
class Rates:
    """Counts over many pictures at one threshold."""

    right: int
    reported: int
    present: int
    iou_sum: float

    @property
    def precision(self) -> float:
        return self.right / max(self.reported, 1)

    @property
    def recall(self) -> float:
        return self.right / max(self.present, 1)

    @property
    def mean_iou(self) -> float:
        return self.iou_sum / max(self.right, 1)


def ap50_by_name(pictures: Sequence[Judged]) -> dict[str, float]:
    """Average precision at IoU 0.5 of each name that is present somewhere, as COCO computes it (101 recalls)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({name for picture in pictures for name in picture.names})
    number = {name: position + 1 for position, name in enumerate(names)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _coco_truth(pictures, number)
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(_coco_found(pictures, number)), "bbox")
        judge.params.iouThrs = np.array([LEAST_IOU])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]  # (recalls, names), all sizes, 100 boxes
    return {name: float(precision[:, k].mean()) for k, name in enumerate(names) if precision[0, k] >= 0}


def _coco_truth(pictures: Sequence[Judged], number: dict[str, int]) -> dict[str, list[dict[str, object]]]:
    annotations: list[dict[str, object]] = []
    for image, picture in enumerate(pictures):
        for box, label in zip(_xywh(picture.boxes_xyxy_px), picture.labels, strict=True):
            kind = number[picture.names[label]]
            known = {"id": len(annotations) + 1, "image_id": image, "category_id": kind, "iscrowd": 0}
            annotations.append({**known, "bbox": box, "area": box[2] * box[3]})
    return {
        "images": [{"id": image} for image in range(len(pictures))],
        "categories": [{"id": value, "name": name} for name, value in number.items()],
        "annotations": annotations,
    }


def _coco_found(pictures: Sequence[Judged], number: dict[str, int]) -> list[dict[str, object]]:
    return [
        {"image_id": image, "category_id": number[picture.names[label]], "bbox": box, "score": float(score)}
        for image, picture in enumerate(pictures)
        for box, score, label in zip(
            _xywh(picture.found.boxes_xyxy_px), picture.found.scores, picture.found.labels, strict=True
        )
    ]


def _xywh(boxes_xyxy_px: NDArray[np.float32]) -> list[list[float]]:
    sides = boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]
    return np.concatenate((boxes_xyxy_px[:, :2], sides), 1).astype(float).tolist()


def rates_at(pictures: Sequence[Judged], threshold: float) -> Rates:
    """Match reported boxes, best first, each to the free true box of its name that it overlaps most."""
    right, reported, present, iou_sum = 0, 0, 0, 0.0
    for picture in pictures:
        found = picture.found.above(threshold)
        iou = overlaps(found.boxes_xyxy_px, picture.boxes_xyxy_px)
        iou = np.where(found.labels[:, None] == picture.labels, iou, 0)  # (reported, present)
        for row in range(len(iou)):
            best = int(iou[row].argmax()) if iou.shape[1] else 0
            if iou.shape[1] and iou[row, best] >= LEAST_IOU:
                right, iou_sum = right + 1, iou_sum + float(iou[row, best])
                iou[:, best] = 0
        reported, present = reported + len(iou), present + len(picture.labels)
    return Rates(right, reported, present, iou_sum)
