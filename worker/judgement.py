"""Measures a fine-tune's base and its candidate alike, and says what the candidate's card will say of it.

Called by: worker.stages. Must not import: backend, groundcrew; torch and mmdet come with the detectors that it loads.
Both look for the same prompts on val, and on the base's own held-out images if it ships any.
Example: `judge(settings, base, candidate_directory, dataset, report_images=print)["decision"]` -> "promoted"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from contract.registry import ModelVersion
from contract.settings import Settings
from worker.dataset import Dataset
from worker.decision import Decision, Findings, Rule, decide
from worker.evaluate import draw_precision_recall, evaluate, evaluate_general
from worker.models import load_mmgdino
from worker.replay import open_replay

PICTURE = "pr.png"  #: precision over recall, in the candidate's directory


def judge(
    settings: Settings,
    base: ModelVersion,
    candidate: Path,
    dataset: Dataset,
    *,
    report_images: Callable[[int, int], None],
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, object]:
    """The fields `metrics`, `rule`, `decision`, `verdict`, `reason`, `evidence` of the candidate's card, and a picture.

    Args:
        candidate: directory of its config, weights and picture.
        report_images: told how many images are looked at, of how many; each counts once for either model.

    Raises:
        JobCancelled: as soon as `cancelled` says so; others: see `worker.evaluate.evaluate`.
    """
    versions = {"base": base, "candidate": _as_version(base, candidate)}
    findings = _measure(settings, versions, dataset, report_images, cancelled)
    drawn = {f"before ({base.ref})": findings["base"].val, "after": findings["candidate"].val}
    draw_precision_recall(candidate / PICTURE, drawn)
    rule = Rule()
    metrics = {name: _as_json(found) for name, found in findings.items()}
    return {"metrics": metrics, "rule": rule.describe(), **_outcome(decide(*findings.values(), rule))}


def _measure(
    settings: Settings,
    versions: Mapping[str, ModelVersion],
    dataset: Dataset,
    report_images: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> dict[str, Findings]:
    base, val, load = versions["base"], dataset.split("val"), load_mmgdino(settings)
    replay = open_replay(base.checkpoint.parent)
    done, total = count(), len(versions) * (len(val) + (len(replay.held_out) if replay else 0))

    def say() -> None:
        report_images(next(done), total)

    say()
    findings = {}
    for name, version in versions.items():
        detector = load(version)
        on_val = evaluate(
            detector, val, dataset.categories, tiles=dataset.tiles, nms_iou=base.nms_iou, cancelled=cancelled, say=say
        )
        general = evaluate_general(detector, replay, nms_iou=base.nms_iou, cancelled=cancelled, say=say)
        findings[name] = Findings(on_val, general)
    return findings


def _as_version(base: ModelVersion, directory: Path) -> ModelVersion:
    bert = directory / "bert"
    paths = {"config": str(directory / "config.py"), "checkpoint": directory / "model.safetensors",
             "lang_model": bert if bert.is_dir() else base.lang_model}  # fmt: skip
    return base.model_copy(update={"name": "candidate", **paths})


def _as_json(found: Findings) -> dict[str, object]:
    parts = {"val": found.val, "general": found.general}
    return {name: metrics.to_json() for name, metrics in parts.items() if metrics is not None}


def _outcome(decision: Decision) -> dict[str, object]:
    return {"decision": "promoted" if decision.promoted else "refused", "verdict": decision.verdict,
            "reason": decision.reason, "evidence": decision.evidence}  # fmt: skip
