"""The stamp that Label Studio sees for one model version and one project's labels.

Called by: backend.models, contract.restamp, worker.stages, groundcrew.predict. Must not import: Flask, Celery, torch.
One function for all of them, so that what changes the boxes changes the stamp everywhere.
Example: `stamp(registry.current(1), read_label_config(xml)) == "tiny-shapes-1.3fa2c19b"`
"""

from __future__ import annotations

from contract.labels import LabelMap, model_version
from contract.registry import ModelVersion
from contract.tiling import choose_tiling


def stamp(version: ModelVersion, label_map: LabelMap) -> str:
    """Weights, prompts, labels, thresholds and, where images are cut into tiles, how."""
    tiling = choose_tiling(version.tiling, label_map)
    how = (tiling.size_px, tiling.overlap, tiling.whole_image) if tiling.size_px else ()
    return model_version(
        version.ref, label_map, score_threshold=version.score_threshold, nms_iou=version.nms_iou, tiling=how
    )
