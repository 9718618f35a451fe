"""Boxes in pixels -> Label Studio regions: the one place where pixels become percent.

Called by: worker (after detection), tests. Pure: no I/O, no clock.
Must not import: anything but contract.labels and the standard library.
Example: `result = boxes_to_result(label_map, boxes, width_px=640, height_px=480)`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from contract.labels import LabelMap, LabelTarget, ScoreKind


class DetectedBox(NamedTuple):
    """One box as the detector gives it: corners in pixels of the upright image, and which prompt it answers."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float  #: 0..1
    prompt_index: int  #: position in ``LabelMap.prompts``


class RectangleValue(TypedDict):
    """Place and name of a region. All four numbers are percent of the image, 0..100."""

    x: float
    y: float
    width: float
    height: float
    rotation: int
    rectanglelabels: list[str]


class Region(TypedDict):
    """One entry of a prediction's ``result``, as Label Studio 1.23 stores it."""

    id: str
    from_name: str
    to_name: str
    type: str
    original_width: int
    original_height: int
    image_rotation: int
    score: float
    value: RectangleValue


def boxes_to_result(
    label_map: LabelMap,
    boxes: Sequence[DetectedBox],
    *,
    width_px: int,
    height_px: int,
    score_threshold: float = 0.0,
) -> list[Region]:
    """Detected boxes -> ``result`` of a prediction, best score first.

    Args:
        boxes: corners in pixels; parts outside the image are cut off, boxes wholly outside are left out.
        width_px, height_px: of the upright image.
        score_threshold: lower limit for labels without one of their own.

    Raises:
        ValueError: a coordinate or score is not finite.
    """
    regions: dict[str, Region] = {}
    for box in sorted(boxes, key=lambda box: -box.score):
        value = _percent(box, width_px, height_px)
        for target in label_map.targets_by_prompt[box.prompt_index]:
            if value["width"] > 0 and value["height"] > 0 and box.score >= target.limit(score_threshold):
                region = _region(target, value, box.score, width_px, height_px)
                regions.setdefault(region["id"], region)  # synonyms may give the very same box: the best stays
    return list(regions.values())


def _percent(box: DetectedBox, width_px: int, height_px: int) -> RectangleValue:
    if not all(math.isfinite(number) for number in box):
        raise ValueError(f"the detector gave a box that is not finite: {box}")
    left, right = (min(max(float(x), 0.0), width_px) / width_px * 100 for x in (box.x1, box.x2))
    top, bottom = (min(max(float(y), 0.0), height_px) / height_px * 100 for y in (box.y1, box.y2))
    return {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0, "rectanglelabels": []}


def _region(target: LabelTarget, value: RectangleValue, score: float, width_px: int, height_px: int) -> Region:
    place = [round(value[side], 4) for side in ("x", "y", "width", "height")]
    name = json.dumps([target.from_name, target.label, place])
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:10],
        "from_name": target.from_name,
        "to_name": target.to_name,
        "type": "rectanglelabels",
        "original_width": width_px,
        "original_height": height_px,
        "image_rotation": 0,
        "score": round(float(score), 4),
        "value": {**value, "rectanglelabels": [target.label]},
    }


def prediction_score(result: Sequence[Region], kind: ScoreKind = "confidence") -> float:
    """What Label Studio sorts tasks by, 0..1. Its "Uncertainty sampling" shows the lowest score first.

    confidence: the mean score of the regions; 0.0 for an image without boxes, so that those come first.
    uncertainty: the score of the region that the model doubts most, so that images in which it hesitates come first;
        1.0 for an image without boxes, where it hesitates about nothing.
    """
    scores = [region["score"] for region in result]
    if kind == "uncertainty":
        return min(scores, default=1.0)
    return round(sum(scores) / len(scores), 4) if scores else 0.0
