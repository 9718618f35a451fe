"""A version's card as the page shows it: its figures beside those of its base, and where it comes from.

Called by: backend.pages. Pure. Must not import: redis, Flask.
Example: `compare_metrics(card)[0]` -> Figure("map_val", 0.61, 0.83)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from contract.cards import VersionCard


class Figure(NamedTuple):
    """One measured value, 0..1, of the base and of this version."""

    name: str  #: weighted_map_val, map_val, ap50_val, ap50_general, or a category
    before: float | None
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before if self.before is not None else 0.0


_PLACES = (("weighted_map_val", "val", "weighted_map"), ("map_val", "val", "map"), ("ap50_val", "val", "ap50"),
           ("ap50_general", "general", "ap50"))  # fmt: skip


def compare_metrics(card: VersionCard) -> list[Figure]:
    """The main figures, then mAP of each category of the project. Empty for a version that nobody measured."""
    base, own = card.metrics.get("base", {}), card.metrics.get("candidate", {})
    main = [Figure(name, before, after) for name, part, key in _PLACES
            if (after := _number(own, part, key)) is not None for before in [_number(base, part, key)]]  # fmt: skip
    classes, before = _classes(own), _classes(base)
    return [*main, *(Figure(name, before.get(name), after) for name, after in sorted(classes.items()))]


class Evidence(NamedTuple):
    """How sure it is that weighted mAP on the project rose; see worker.decision.Rise."""

    lowest: float
    highest: float
    images: int
    confidence: float | None  #: of each end, one-sided; None: too few images, the ends are those of single ones
    few_images: bool


def read_evidence(card: VersionCard) -> Evidence | None:
    """None for a version that nobody measured, and for cards of older versions."""
    lowest, highest, images, confidence = (
        value if isinstance(value := card.evidence.get(name), int | float) else None
        for name in ("lowest", "highest", "images", "confidence")
    )
    if lowest is None or highest is None or images is None:
        return None
    return Evidence(lowest, highest, int(images), confidence, bool(card.evidence.get("few_images")))


def read_facts(card: VersionCard) -> dict[str, object]:
    """What is known of how it was made, without what is empty."""
    names = ("base", "created_at", "made_by", "job_id", "decision", "rule", "score_threshold", "nms_iou")
    facts = {name: getattr(card, name) for name in names}
    facts["dataset_sha256"] = card.dataset_sha256[:12]
    return {name: value for name, value in facts.items() if value not in ("", None)}


def _number(metrics: Mapping[str, JsonValue], part: str, key: str) -> float | None:
    found = metrics.get(part)
    value = found.get(key) if isinstance(found, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _classes(metrics: Mapping[str, JsonValue]) -> dict[str, float]:
    found = metrics.get("val")
    per_class = found.get("per_class_ap") if isinstance(found, dict) else None
    rows = per_class if isinstance(per_class, dict) else {}
    return {name: float(value) for name, value in rows.items() if isinstance(value, int | float)}
