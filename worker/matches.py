"""Which found boxes are right, image by image, and mAP as if images counted several times or not at all.

Called by worker/evaluate.py, which has pycocotools do the matching once, and by worker/decision.py, which draws the
images anew hundreds of times. Must not import backend, groundcrew, torch or mmdet.
Example: `mean_ap(read_matches(judge), np.ones((1, images), int))[0]` is the mAP that COCO gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0.0, 1.0, 101)  #: at which COCO reads precision
NUMBERS_A_CALL = 250_000  #: rows x boxes of a category; bounds the memory, and fits a cache


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The boxes found of one category, the surest first."""

    image: NDArray[np.int64]  # (D,) place of the image that each box is in
    right: NDArray[np.bool_]  # (T, D) whether it is right at each IoU, 0.50 to 0.95
    truths: NDArray[np.int64]  # (images,) annotated boxes in each image


@dataclass(frozen=True, eq=False)
class Matches:
    """Of every category that is annotated in some image."""

    images: int = 0
    classes: tuple[ClassMatches, ...] = ()

    def shown(self) -> NDArray[np.bool_]:
        """(images,) whether anything is annotated there."""
        return np.sum([one.truths for one in self.classes] or [np.zeros(self.images)], axis=0) > 0


def read_matches(judge: COCOeval) -> Matches:
    """What `judge.evaluate()` found, for objects of all sizes and the best boxes of an image, `maxDets` of them."""
    images, sizes = len(judge.params.imgIds), len(judge.params.areaRng)
    rows = np.array(judge.evalImgs, dtype=object).reshape(len(judge.params.catIds), sizes, images)
    return Matches(images, tuple(_read_classes(rows[:, 0], len(judge.params.iouThrs))))


def _read_classes(rows: NDArray[np.object_], ious: int) -> Iterator[ClassMatches]:
    for of_class in rows:
        truths = np.array([0 if row is None else len(row["gtIds"]) for row in of_class])
        if truths.any():
            yield _read_class(of_class, truths, ious)


def _read_class(rows: NDArray[np.object_], truths: NDArray[np.int64], ious: int) -> ClassMatches:
    found = [(place, row) for place, row in enumerate(rows) if row is not None]
    scores = np.concatenate([row["dtScores"] for _, row in found])
    order = np.argsort(-scores, kind="stable")  # as pycocotools ranks boxes of equal score
    image = np.concatenate([np.full(len(row["dtScores"]), place) for place, row in found])
    right = np.concatenate([np.reshape(row["dtMatches"], (ious, -1)) for _, row in found], axis=1) > 0
    return ClassMatches(image[order], right[:, order], truths)


def mean_ap(matches: Matches, times: NDArray[np.int64], *, weighted: bool = False) -> NDArray[np.float64]:
    """mAP over IoU 0.50 to 0.95 as if image i were in the data set times[:, i] times.

    Args:
        times: (rows, images).
        weighted: each category counts by its annotated boxes (scikit-learn's average="weighted"), not all alike.

    Returns:
        (rows,), each the mean over the categories that its images show; NaN where they show none.
    """
    most_boxes = max((len(one.image) for one in matches.classes), default=0)
    rows = max(1, NUMBERS_A_CALL // max(1, most_boxes))
    parts = [times[first : first + rows] for first in range(0, len(times), rows)]
    return np.concatenate([_mean_over_classes(matches, part, weighted) for part in parts])


def _mean_over_classes(matches: Matches, times: NDArray[np.int64], weighted: bool) -> NDArray[np.float64]:
    total, weights = np.zeros(len(times)), np.zeros(len(times))
    for one in matches.classes:
        wanted = times @ one.truths
        weight = wanted if weighted else wanted > 0
        total += _average_precision(one, times, wanted) * weight
        weights += weight
    return np.divide(total, weights, out=np.full(len(times), np.nan), where=weights > 0)


def _average_precision(one: ClassMatches, times: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,) mean over the IoUs; 0 where nothing is wanted.

    Precision is looked up where a box is right only: between two of those it falls, and COCO takes the highest of what
    follows. So the many unsure boxes that are wrong cost one addition each.
    """
    places = np.flatnonzero(one.right.any(axis=0))
    if not len(places):
        return np.zeros(len(times))
    counted = times[:, one.image[: places[-1] + 1]]
    found = np.add.reduceat(counted, np.append(0, places[:-1] + 1), axis=1).cumsum(axis=1)
    found, wanted = np.maximum(found, 1), np.maximum(wanted, 1)[:, None]
    at_each_iou = [_area(counted[:, places] * right, found, wanted) for right in one.right[:, places]]
    return np.mean(at_each_iou, axis=0)


def _area(right: NDArray[np.int64], found: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,) mean of the precision at RECALLS. All arguments count boxes: (rows, places), the last one (rows, 1)."""
    right = right.cumsum(axis=1)
    precision = np.maximum.accumulate((right / found)[:, ::-1], axis=1)[:, ::-1]
    passed = np.searchsorted(RECALLS, right / wanted, side="right")  # of RECALLS, when this box is counted
    return (np.diff(passed, axis=1, prepend=0) * precision).sum(axis=1) / len(RECALLS)
