"""Boxes with a label, and how well predicted ones agree with known ones.

Called by: groundcrew/demo.py, groundcrew/pictures.py and tests.
Must not import: backend, worker, numpy (a handful of boxes an image needs none).
Example: agreement = compare(known, predicted); agreement.recall, agreement.mean_iou
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A known box counts as found when a predicted one of the same label covers it at least this well (COCO's AP50).
LEAST_IOU = 0.5

Corners = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class LabelledBox:
    """A box in pixels of its image."""

    label: str
    xyxy_px: Corners
    #: 0..1; a known box has 1
    score: float = 1.0


@dataclass(frozen=True)
class Agreement:
    """What became of the known and the predicted boxes of one or more images."""

    #: known boxes that were found, each with the box that found it and their IoU
    found: tuple[tuple[LabelledBox, LabelledBox, float], ...]
    missed: tuple[LabelledBox, ...]
    #: predicted boxes that found nothing
    extra: tuple[LabelledBox, ...]

    @property
    def recall(self) -> float:
        """Share of the known boxes that were found; 1 when there are none."""
        known = len(self.found) + len(self.missed)
        return len(self.found) / known if known else 1.0

    @property
    def mean_iou(self) -> float:
        """Over the found boxes; 0 when there are none."""
        return sum(iou for _, _, iou in self.found) / len(self.found) if self.found else 0.0


def box_of_region(region: Mapping[str, Any]) -> LabelledBox:
    """A rectangle region of Label Studio (percent of the image) as a box in pixels."""
    value, width_px, height_px = region["value"], region["original_width"], region["original_height"]
    left, top = value["x"] / 100 * width_px, value["y"] / 100 * height_px
    right, bottom = left + value["width"] / 100 * width_px, top + value["height"] / 100 * height_px
    return LabelledBox(value["rectanglelabels"][0], (left, top, right, bottom), region["score"])


def measure_iou(first: Corners, second: Corners) -> float:
    """Common area divided by the area of both together, 0..1."""
    common = _area((*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])))
    together = _area(first) + _area(second) - common
    return common / together if together else 0.0


def compare(known: Sequence[LabelledBox], predicted: Sequence[LabelledBox]) -> Agreement:
    """Pairs the boxes of one image, best score first, each with the free known box of its label that it covers best."""
    free = list(known)
    found, extra = [], []
    for box in sorted(predicted, key=lambda box: -box.score):
        candidates = [(measure_iou(box.xyxy_px, other.xyxy_px), other) for other in free if other.label == box.label]
        iou, best = max(candidates, key=lambda candidate: candidate[0], default=(0.0, None))
        if best is None or iou < LEAST_IOU:
            extra.append(box)
            continue
        free.remove(best)
        found.append((best, box, iou))
    return Agreement(tuple(found), tuple(free), tuple(extra))


def add_up(agreements: Iterable[Agreement]) -> Agreement:
    """The agreement over several images."""
    all_of = list(agreements)
    return Agreement(
        tuple(pair for one in all_of for pair in one.found),
        tuple(box for one in all_of for box in one.missed),
        tuple(box for one in all_of for box in one.extra),
    )


def _area(xyxy: Corners) -> float:
    return max(0.0, xyxy[2] - xyxy[0]) * max(0.0, xyxy[3] - xyxy[1])
