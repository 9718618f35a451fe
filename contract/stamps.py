"""The stamp that Label Studio sees for one model version and one project's labels.

Called by: backend.models, contract.restamp, worker.stages, groundcrew.predict. Must not import: Flask, Celery, torch.
One function for all of them, so that what changes the boxes changes the stamp everywhere.
Example: `stamp(registry.current(1), read_label_config(xml)) == "tiny-shapes-1.3fa2c19b"`
"""

from __future__ import annotations

import hashlib
import json

from contract.labels import LabelMap
from contract.registry import ModelVersion
from contract.tiling import choose_tiling


def stamp(version: ModelVersion, label_map: LabelMap) -> str:
    """Weights, prompts, labels, thresholds and, where images are cut into tiles, how."""
    tiling = choose_tiling(version.tiling, label_map)
    how = (tiling.size_px, tiling.overlap, tiling.whole_image) if tiling.size_px else ()
    return model_version(
        version.ref, label_map, score_threshold=version.score_threshold, nms_iou=version.nms_iou, tiling=how
    )


def model_version(
    model: str,
    label_map: LabelMap,
    *,
    score_threshold: float,
    nms_iou: float | None,
    tiling: tuple[int | float | bool, ...] = (),
) -> str:
    """``tiny-shapes-1`` and this project's labels -> ``tiny-shapes-1.3fa2c19b``.

    The hash covers what decides which boxes are stored and under which names: prompts, labels, the controls they
    belong to, thresholds, and what the score means. Label Studio asks again for every task that holds no prediction of
    this version, so colours, hotkeys and the order of labels must not enter it. `tiling` does where it is given.
    """
    pairs = zip(label_map.prompts, label_map.targets_by_prompt, strict=True)
    facts = sorted(
        [prompt, target.from_name, target.to_name, target.label, target.limit(score_threshold)]
        for prompt, targets in pairs
        for target in targets
    )
    score = [] if label_map.score == "confidence" else [label_map.score]
    how = [score_threshold, nms_iou, *([tiling] if tiling else []), *score]
    digest = hashlib.sha256(json.dumps([facts, *how]).encode()).hexdigest()
    return f"{model}.{digest[:8]}"
