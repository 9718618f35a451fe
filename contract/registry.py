"""Which model versions exist and which one is current. Moves opaque files, never looks inside.

Called by: backend.dispatch (stamps jobs), worker.models (finds files), groundcrew. Must not import: torch.
Without CONFIG_FILE the model is the tiny one that ships with the package.
Example: `Registry(settings).current(project_id=1).ref == "tiny-shapes-1"`
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import UnknownVersion
from contract.settings import Settings

ZOO = Path(__file__).resolve().parent.parent / "groundcrew" / "zoo"  #: data that ships with the package
TINY = "tiny-shapes"
DEFAULT_SCORE_THRESHOLD = 0.3  #: MM Grounding DINO's own demo (mmdet demo/image_demo.py, --pred-score-thr)
DEFAULT_NMS_IOU = 0.7


class ModelVersion(BaseModel):
    """One immutable set of weights, and how to use it. Paths are as this process sees them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str
    config: str  #: path of an mmengine config, or the name of one in mmdet's wheel
    checkpoint: Path
    lang_model: Path | None = None
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    nms_iou: float | None = DEFAULT_NMS_IOU

    @property
    def ref(self) -> str:
        """What jobs and Label Studio call it."""
        return f"{self.name}-{self.version}"


class Registry:
    """The base model of the settings, and every version in MODEL_DIR."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        base = _operators_model(settings) if settings.config_file else read_version(ZOO / TINY)
        self.base = self._with_overrides(base)

    def current(self, project_id: int) -> ModelVersion:
        """The version that new jobs of this project are stamped with."""
        return self.base

    def get(self, ref: str) -> ModelVersion:
        """The version of this name. Raises UnknownVersion with the names that exist."""
        for version in self.list():
            if version.ref == ref:
                return version
        known = ", ".join(version.ref for version in self.list())
        raise UnknownVersion(f"model version {ref} is not registered; known: {known}")

    def list(self) -> list[ModelVersion]:
        cards = sorted(self._settings.model_dir.glob("*/card.json"))
        return [self.base, *(self._with_overrides(read_version(card.parent)) for card in cards)]

    def _with_overrides(self, version: ModelVersion) -> ModelVersion:
        chosen = {"score_threshold": self._settings.score_threshold, "nms_iou": self._settings.nms_iou}
        return version.model_copy(update={name: value for name, value in chosen.items() if value is not None})


def read_version(directory: Path) -> ModelVersion:
    """The version in a directory that holds card.json, config.py, model.safetensors and perhaps bert/.

    Raises UnknownVersion when the directory is not one.
    """
    try:
        card = json.loads((directory / "card.json").read_text(encoding="utf-8"))
        bert = directory / "bert"
        return ModelVersion(
            config=str(directory / "config.py"),
            checkpoint=directory / "model.safetensors",
            lang_model=bert if bert.is_dir() else None,
            **{name: card[name] for name in ("name", "version", "score_threshold", "nms_iou") if name in card},
        )
    except (OSError, ValueError, ValidationError) as error:
        raise UnknownVersion(f"{directory} holds no usable model version: {error}") from None


def _operators_model(settings: Settings) -> ModelVersion:
    """CONFIG_FILE and CHECKPOINT_FILE as a version. Both sides must get the same name, so only file names count."""
    checkpoint = settings.checkpoint_file
    assert checkpoint is not None  # checked by read_settings
    config = Path(settings.config_file).name.removesuffix(".py")
    return ModelVersion(
        name=config.removeprefix("grounding_dino_"),
        version=_checkpoint_tag(checkpoint),
        config=settings.config_file,
        checkpoint=checkpoint,
        lang_model=settings.lang_model,
    )


def _checkpoint_tag(checkpoint: Path) -> str:
    """Official files end in `-` and eight digits of their sha256; others get eight digits of their name's."""
    official = re.search(r"-([0-9a-f]{8})$", checkpoint.stem)
    return official.group(1) if official else hashlib.sha256(checkpoint.name.encode()).hexdigest()[:8]
