"""Predictions of image files in COCO's form: one JSON object that pycocotools and most viewers read.

Called by: groundcrew.predict. Must not import: torch, backend.
Format: https://cocodataset.org/#format-data (object detection), with the score of each box beside it.
Example: `to_coco(found, failures, prompts=("red circle",), info={"model": "tiny-shapes-1"})["annotations"][0]["bbox"]`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from groundcrew.sources import Source
from worker.detectors.base import Boxes

Json = dict[str, object]


@dataclass(frozen=True, eq=False)
class FoundImage:
    """One image and what was found in it."""

    source: Source
    picture: str  #: name of the drawn picture, beside the JSON
    width_px: int  #: of the upright image
    height_px: int
    boxes: Boxes


def to_coco(
    found: Sequence[FoundImage],
    failures: Sequence[tuple[str, str]],
    *,
    prompts: Sequence[str],
    info: Mapping[str, object],
) -> Json:
    """The whole answer. Ids count from 1; categories are the prompts, images keep their order.

    Args:
        failures: (image, reason) of those that could not be used.
        info: about the model; kept as it is.
    """
    rows = [row for image_id, image in enumerate(found, start=1) for row in _annotations(image_id, image)]
    return {
        "info": dict(info),
        "images": [_image(image_id, image) for image_id, image in enumerate(found, start=1)],
        "categories": [{"id": number, "name": prompt} for number, prompt in enumerate(prompts, start=1)],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
        "failed": [{"file_name": name, "reason": reason} for name, reason in failures],
    }


def _image(image_id: int, image: FoundImage) -> Json:
    size = {"width": image.width_px, "height": image.height_px}
    return {"id": image_id, "file_name": image.source.name, **size, "picture": image.picture}


def _annotations(image_id: int, image: FoundImage) -> Iterator[Json]:
    boxes = image.boxes
    for corners, score, label in zip(boxes.xyxy_px.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True):
        left, right = (round(min(max(x, 0.0), image.width_px), 2) for x in corners[::2])
        top, bottom = (round(min(max(y, 0.0), image.height_px), 2) for y in corners[1::2])
        width, height = round(right - left, 2), round(bottom - top, 2)
        yield {
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [left, top, width, height],  # (4,) pixels
            "area": round(width * height, 2),
            "score": round(score, 4),
            "iscrowd": 0,
        }
