"""How well predicted boxes agree with what annotators submitted: kept, moved, relabelled, deleted, added.

Called by: backend.payloads (reads submitted boxes), worker.compare (compares). Pure: no I/O, no clock.
Must not import: anything but the standard library.
Example: `compare(predicted, submitted)["car"].f1`
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, Self

LEAST_IOU = 0.5  #: two boxes mean the same object from here on: PASCAL VOC's and COCO's AP50
UNTOUCHED_PCT = 0.1  #: an edge that moved by less, in percent of the image, was not touched: editors round


class Box(NamedTuple):
    """One labelled rectangle: corners in percent of the image, 0..100."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Counts:
    """What became of predicted boxes. A relabelled box counts for the label it had, and as added for the new one."""

    kept: int = 0
    moved: int = 0  #: same label, at least LEAST_IOU, but not the same place
    relabelled: int = 0  #: same place, another label
    deleted: int = 0
    added: int = 0  #: submitted, but not predicted under this label

    def __add__(self, other: Self) -> Self:
        return type(self)(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def right(self) -> int:
        return self.kept + self.moved

    @property
    def predicted(self) -> int:
        return self.right + self.relabelled + self.deleted

    @property
    def submitted(self) -> int:
        return self.right + self.added

    @property
    def precision(self) -> float | None:
        """Share of the predicted boxes that annotators agreed with; None where nothing was predicted."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the submitted boxes that were predicted; None where nothing was submitted."""
        return self.right / self.submitted if self.submitted else None

    @property
    def f1(self) -> float:
        """Harmonic mean of both, 0..1; 1 where neither side has a box, since that is full agreement."""
        both = self.predicted + self.submitted
        return 2 * self.right / both if both else 1.0


def add_up(counts: Iterable[Counts]) -> Counts:
    """The counts of several labels or images together."""
    return sum(counts, Counts())


# -- comparing -------------------------------------------------------------------------------------------------------


def compare(predicted: Sequence[Box], submitted: Sequence[Box]) -> dict[str, Counts]:
    """The counts of one image, by label.

    Pairs are made greedily, the best IoU first, so that an untouched box always finds itself: first among boxes of
    the same label, then among what is left, whatever the label. Every box is in one pair at most.
    """
    same = _pair(predicted, submitted, same_label=True)
    left = [box for place, box in enumerate(predicted) if place not in {pair[0] for pair in same}]
    new = [box for place, box in enumerate(submitted) if place not in {pair[1] for pair in same}]
    renamed = {place for place, _ in _pair(left, new, same_label=False)}
    found: dict[str, Counts] = {}
    for label, change in [
        *((predicted[one].label, _kept_or_moved(predicted[one], submitted[two])) for one, two in same),
        *((box.label, RELABELLED if place in renamed else DELETED) for place, box in enumerate(left)),
        *((box.label, ADDED) for box in new),
    ]:
        found[label] = found.get(label, Counts()) + change
    return found


KEPT, MOVED, RELABELLED = Counts(kept=1), Counts(moved=1), Counts(relabelled=1)
DELETED, ADDED = Counts(deleted=1), Counts(added=1)


def _pair(ones: Sequence[Box], others: Sequence[Box], *, same_label: bool) -> list[tuple[int, int]]:
    candidates = sorted(
        (-iou, one, two)
        for one, first in enumerate(ones)
        for two, second in enumerate(others)
        if (first.label == second.label) == same_label and (iou := measure_iou(first, second)) >= LEAST_IOU
    )
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, one, two in candidates:
        if one not in pairs and two not in taken:
            pairs[one] = two
            taken.add(two)
    return list(pairs.items())


def _kept_or_moved(predicted: Box, submitted: Box) -> Counts:
    edges = zip(predicted[1:], submitted[1:], strict=True)
    return KEPT if all(abs(before - after) < UNTOUCHED_PCT for before, after in edges) else MOVED


def measure_iou(one: Box, two: Box) -> float:
    """Common area divided by the area of both together, 0..1. Percent do, as both axes are only scaled."""
    width = min(one.x2, two.x2) - max(one.x1, two.x1)
    height = min(one.y2, two.y2) - max(one.y1, two.y1)
    common = max(width, 0.0) * max(height, 0.0)
    together = _area(one) + _area(two) - common
    return common / together if together > 0 else 0.0


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


# -- reading ---------------------------------------------------------------------------------------------------------


def read_boxes(result: object) -> tuple[Box, ...]:
    """The rectangles in a prediction's or an annotation's `result`; whatever else it holds is left out.

    A turned rectangle becomes the upright one around it. A region with several labels is a box for each.
    """
    regions = result if isinstance(result, list) else []
    return tuple(box for region in regions if isinstance(region, dict) for box in _read_region(region))


def _read_region(region: Mapping[str, object]) -> Iterator[Box]:
    value = region.get("value")
    if region.get("type") != "rectanglelabels" or not isinstance(value, dict):
        return
    place = [value.get("x"), value.get("y"), value.get("width"), value.get("height"), value.get("rotation") or 0]
    numbers = [float(number) for number in place if isinstance(number, int | float) and math.isfinite(number)]
    labels = value.get("rectanglelabels")
    if len(numbers) == len(place) and isinstance(labels, list):
        corners = _enclose(numbers, _aspect(region))
        yield from (Box(label, *corners) for label in labels if isinstance(label, str))


def _aspect(region: Mapping[str, object]) -> float:
    """Width by height of the image; 1 where it is not known."""
    width, height = region.get("original_width"), region.get("original_height")
    known = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return width / height if known else 1.0  # type: ignore[operator]  # both are numbers where it is known


def _enclose(numbers: Sequence[float], aspect: float) -> tuple[float, float, float, float]:
    """Label Studio turns a rectangle clockwise about its upper left corner, in pixels; percent are stretched."""
    x, y, width, height, turned_deg = numbers
    cos, sin = math.cos(math.radians(turned_deg)), math.sin(math.radians(turned_deg))
    corners = [(u, v) for u in (0.0, width) for v in (0.0, height)]
    xs = [x + u * cos - v / aspect * sin for u, v in corners]
    ys = [y + u * aspect * sin + v * cos for u, v in corners]
    return min(xs), min(ys), max(xs), max(ys)
