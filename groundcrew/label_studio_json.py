"""Predictions as Label Studio imports them: tasks with their boxes, and the label config that fits.

Called by: groundcrew.predict_output. Must not import: torch, Celery, redis, label_studio_sdk.
Format: https://labelstud.io/guide/predictions (percent of the image, one `result` entry a box).
Example: `to_tasks(found, label_map, stamp="tiny-shapes-1.3fa2c19b", score_threshold=0.3, address_of=embed)`
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr  # nosec B406  # writes, never parses

from contract.labels import LabelMap
from contract.regions import boxes_to_result, prediction_score
from groundcrew.coco import FoundImage
from groundcrew.sources import Source
from worker.predict import list_boxes

Json = dict[str, Any]
AddressOf = Callable[[Source], str]


def to_tasks(
    found: Sequence[FoundImage], label_map: LabelMap, *, stamp: str, score_threshold: float, address_of: AddressOf
) -> list[Json]:
    """One task an image, each with one prediction.

    Args:
        stamp: model_version of the predictions.
        address_of: what Label Studio shows the image from; not asked where the image is a task of its own already.
    """
    return [
        {
            "data": dict(image.source.data or {label_map.image_key: address_of(image.source)}),
            "predictions": [_prediction(image, label_map, stamp, score_threshold)],
        }
        for image in found
    ]


def _prediction(image: FoundImage, label_map: LabelMap, stamp: str, score_threshold: float) -> Json:
    result = boxes_to_result(
        label_map, list_boxes(image.boxes), width_px=image.width_px, height_px=image.height_px,
        score_threshold=score_threshold,
    )  # fmt: skip
    return {"model_version": stamp, "score": prediction_score(result, label_map.score), "result": result}


def choose_address(prefix: str, local_files_root: Path | None) -> AddressOf:
    """How Label Studio reaches files of this machine: below `prefix`, from its own disk, or inside the task itself."""

    def address_of(source: Source) -> str:
        if source.path is None:
            return source.address
        if prefix:
            return f"{prefix.rstrip('/')}/{quote(source.relative)}"
        if local_files_root is not None and source.path.resolve().is_relative_to(local_files_root.resolve()):
            below = source.path.resolve().relative_to(local_files_root.resolve())
            return f"/data/local-files/?d={quote(below.as_posix())}"
        return embed(source.path)

    return address_of


def embed(path: Path) -> str:
    """The file as a data: URI."""
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_label_config(label_map: LabelMap) -> str:
    """A label config with the map's labels, for a project that the tasks are imported into."""
    labels = "".join(f"    <Label value={quoteattr(target.label)}/>\n" for target in label_map.targets)
    first = label_map.targets[0]
    return (
        f'<View>\n  <Image name="{label_map.to_name}" value="${label_map.image_key}"/>\n'
        f'  <RectangleLabels name="{first.from_name}" toName="{label_map.to_name}">\n{labels}  </RectangleLabels>\n'
        "</View>\n"
    )
