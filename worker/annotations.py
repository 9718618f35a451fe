"""What the annotators of one task said -> boxes in pixels of the upright image. Pure: no I/O, no clock.

Called by: worker.export. Must not import: torch, anything with a network.
A rotated box turns clockwise about its upper left corner, in pixels: label_studio_sdk.converter reads it so, too.
Example: `boxes, notes = read_boxes(choose_annotation(task)[0], labels, width_px=640, height_px=480)`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from contract.errors import TrainingDataError
from contract.labels import LabelMap
from worker.dataset import Category, LabelledBox

#: Results that say something about the image or a region, but draw nothing.
NOT_DRAWN = frozenset(
    {"choices", "textarea", "number", "rating", "taxonomy", "datetime", "pairwise", "ranker", "relation"}
)
#: A resized copy rounds its sides; a turned or cropped one differs by more.
ASPECT_TOLERANCE = 0.02
SMALLEST_SIDE_PX = 1.0
CLIP_TOLERANCE_PX = 1e-6  #: percent that were computed in floats may miss the edge by this much

Json = Mapping[str, Any]  #: an object of Label Studio's export
Corners = tuple[float, float, float, float]  #: x1, y1, x2, y2 in pixels


class TaskBoxes(NamedTuple):
    """The boxes of one task, and what happened to the others: sentence -> how often."""

    boxes: tuple[LabelledBox, ...]
    notes: Counter[str]


@dataclass(frozen=True)
class ProjectLabels:
    """Which label means which category."""

    categories: tuple[Category, ...]
    category_ids: Mapping[str, int | None]  #: by every name of a label; None: the label has no prompt
    to_name: str  #: name of the Image tag
    config_hash: str


def read_project_labels(label_map: LabelMap) -> ProjectLabels:
    """Labels with the same prompts share a category; labels without a prompt have none."""
    by_prompts: dict[tuple[str, ...], Category] = {}
    ids: dict[str, int | None] = {}
    for target in label_map.targets:
        if target.prompts:
            by_prompts.setdefault(target.prompts, Category(len(by_prompts) + 1, target.label, target.prompts))
        category = by_prompts.get(target.prompts)
        ids.setdefault(target.label, category.id if category else None)
    for target in label_map.targets:  # what Label Studio stores wins over what people call it
        for name in target.names:
            ids.setdefault(name, ids[target.label])
    facts = [[target.from_name, target.label, target.names, target.prompts] for target in label_map.targets]
    config_hash = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return ProjectLabels(tuple(by_prompts.values()), ids, label_map.to_name, config_hash)


# -- which annotation ------------------------------------------------------------------------------------------------


def choose_annotation(task: Json) -> tuple[Json, Counter[str]]:
    """The annotation that counts: a ground truth before others, then the one updated last.

    Raises TrainingDataError: all of them were skipped.
    """
    annotations = task.get("annotations") or ()
    submitted = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if not submitted:
        raise TrainingDataError("its annotators skipped it")
    notes = Counter({
        "skipped annotation ignored": len(annotations) - len(submitted),
        "task with several annotations: one was chosen": int(len(submitted) > 1),
    })  # fmt: skip
    return max(submitted, key=_precedence), +notes


def _precedence(annotation: Json) -> tuple[bool, datetime, int]:
    return bool(annotation.get("ground_truth")), _time(annotation.get("updated_at")), int(annotation.get("id") or 0)


def _time(text: object) -> datetime:
    """Label Studio's times; an unreadable one counts as the oldest."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# -- its boxes -------------------------------------------------------------------------------------------------------


def read_boxes(annotation: Json, labels: ProjectLabels, *, width_px: int, height_px: int) -> TaskBoxes:
    """The boxes of one annotation, cut off at the image's edges. None at all: nothing of these labels is in it.

    Args:
        width_px, height_px: of the upright image, as worker.images decodes it.

    Raises TrainingDataError, naming why the whole task cannot be used: its boxes were drawn on another or a turned
        picture, or something is drawn, but no usable box (such an image does not show that nothing is there).
    """
    notes: Counter[str] = Counter()
    results = annotation.get("result") or ()
    drawn = [region for region in results if _is_drawn(region, labels, notes)]
    boxes = [box for region in drawn for box in _read_region(region, labels, (width_px, height_px), notes)]
    if drawn and not boxes:
        raise TrainingDataError(f"nothing drawn in it is a usable box: {'; '.join(sorted(notes))}")
    return TaskBoxes(tuple(dict.fromkeys(boxes)), notes)


def _is_drawn(region: Json, labels: ProjectLabels, notes: Counter[str]) -> bool:
    if region.get("type") in NOT_DRAWN:
        return False
    if region.get("to_name") != labels.to_name:
        notes["region ignored: it lies on another object than the image"] += 1
        return False
    return True


def _read_region(
    region: Json, labels: ProjectLabels, size_px: tuple[int, int], notes: Counter[str]
) -> list[LabelledBox]:
    if region.get("type") != "rectanglelabels":
        notes[f"region ignored: {region.get('type')}, not rectanglelabels"] += 1
        return []
    _check_size(region, size_px)
    value = region.get("value") or {}
    ids = _categories(value, labels, notes)
    corners = _place(value, size_px, notes) if ids else None
    return [_box(corners, category_id) for category_id in ids] if corners else []


def _check_size(region: Json, size_px: tuple[int, int]) -> None:
    """Percent fit a resized copy, but no picture of another shape."""
    turned = region.get("image_rotation") or 0
    if turned != 0:
        raise TrainingDataError(f"its image was turned by {turned} degrees in the editor: turn it back, submit again")
    width, height = region.get("original_width"), region.get("original_height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return  # imported annotations may lack it
    if abs(width * size_px[1] / (height * size_px[0]) - 1) > ASPECT_TOLERANCE:
        drawn_on, now = f"{width} x {height}", f"{size_px[0]} x {size_px[1]}"
        raise TrainingDataError(
            f"its boxes were drawn on {drawn_on} pixels, but the image has {now}: annotate it again"
        )


def _categories(value: Json, labels: ProjectLabels, notes: Counter[str]) -> list[int]:
    names = value.get("rectanglelabels") or ()
    if not names:
        notes["box ignored: it has no label"] += 1
    for name in names:
        if name not in labels.category_ids:
            notes[f'box ignored: the label config has no label "{name}"'] += 1
        elif labels.category_ids[name] is None:
            notes[f'box ignored: the label "{name}" has no prompt'] += 1
    return [category_id for name in names if (category_id := labels.category_ids.get(name)) is not None]


def _place(value: Json, size_px: tuple[int, int], notes: Counter[str]) -> Corners | None:
    """The upright box around a region, inside the image; None when there is none."""
    numbers = [value.get(name, 0 if name == "rotation" else None) for name in ("x", "y", "width", "height", "rotation")]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        notes["box dropped: its place is not given in numbers"] += 1
        return None
    x_pct, y_pct, width_pct, height_pct, turned_deg = map(float, numbers)
    width_px, height_px = size_px
    place = x_pct * width_px / 100, y_pct * height_px / 100, width_pct * width_px / 100, height_pct * height_px / 100
    if turned_deg % 360 != 0:
        notes["rotated box replaced by the upright box around it"] += 1
    return _clip(_enclose(*place, turned_deg), size_px, notes)


def _enclose(x: float, y: float, width: float, height: float, turned_deg: float) -> Corners:
    """Turned about its upper left corner: x' = x + u cos a - v sin a, y' = y + u sin a + v cos a."""
    if turned_deg % 360 == 0:
        return x, y, x + width, y + height
    angle = math.radians(turned_deg)
    corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
    xs = [x + u * math.cos(angle) - v * math.sin(angle) for u, v in corners]
    ys = [y + u * math.sin(angle) + v * math.cos(angle) for u, v in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _clip(corners: Corners, size_px: tuple[int, int], notes: Counter[str]) -> Corners | None:
    limits = (*size_px, *size_px)
    x1, y1, x2, y2 = (min(max(edge, 0.0), float(limit)) for edge, limit in zip(corners, limits, strict=True))
    if x2 - x1 < SMALLEST_SIDE_PX or y2 - y1 < SMALLEST_SIDE_PX:
        notes["box dropped: less than 1 pixel of it is inside the image"] += 1
        return None
    if max(abs(cut - edge) for cut, edge in zip((x1, y1, x2, y2), corners, strict=True)) > CLIP_TOLERANCE_PX:
        notes["box cut off at the edge of the image"] += 1
    return x1, y1, x2, y2


def _box(corners: Corners, category_id: int) -> LabelledBox:
    x1, y1, x2, y2 = corners
    return LabelledBox(x1, y1, x2 - x1, y2 - y1, category_id)
