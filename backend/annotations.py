"""Annotation events as Label Studio sends them, read for comparing: who submitted which boxes for which task, and when.

Called by: backend.payloads. Pure. Must not import: Flask, Celery, redis.
Nothing here is refused: an event that lacks a field is counted elsewhere, and simply not compared.
Example: `read_submitted(body["annotation"]) -> (Submitted(annotation_id=5, task_id=7, ...),)`
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from contract.agreement import read_boxes
from contract.jobs import Submitted

LIMIT_ID = 2**63 - 1  #: Label Studio's ids are PostgreSQL's bigint


def read_submitted(found: object) -> tuple[Submitted, ...]:
    """One annotation, or a list of them under the same name; those without ids or times are left out."""
    annotations = found if isinstance(found, list) else [found]
    read = [_read_one(one) for one in annotations if isinstance(one, Mapping)]
    return tuple(one for one in read if one is not None)


def read_ids(found: object) -> tuple[int, ...]:
    """The ids in `annotations` of ANNOTATIONS_DELETED."""
    rows = found if isinstance(found, list) else []
    ids = [row.get("id") for row in rows if isinstance(row, Mapping)]
    return tuple(one for one in map(id_or_zero, ids) if one)


def _read_one(annotation: Mapping[str, object]) -> Submitted | None:
    annotation_id, task_id = id_or_zero(annotation.get("id")), id_or_zero(annotation.get("task"))
    created_s, updated_s = _unix(annotation.get("created_at")), _unix(annotation.get("updated_at"))
    if not annotation_id or not task_id or created_s is None or updated_s is None:
        return None
    return Submitted(
        annotation_id=annotation_id, task_id=task_id, created_s=created_s, updated_s=updated_s,
        parent_prediction=id_or_zero(annotation.get("parent_prediction")),
        skipped=bool(annotation.get("was_cancelled")), boxes=read_boxes(annotation.get("result")),
    )  # fmt: skip


def id_or_zero(value: object) -> int:
    """What is no id counts as none: Redis takes no True, and a message no number beyond Label Studio's."""
    return value if type(value) is int and 0 < value <= LIMIT_ID else 0


def _unix(text: object) -> float | None:
    """Label Studio's `2026-11-24T23:28:47.187713Z` as Unix time."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None
