"""Build the tiny model from its directory, and read and write its weights.

Called by train_tiny.py, evaluate_tiny.py and tests; predictions in production go through worker/detectors.
Must not import backend; torch and mmdet only when called.
Example: `model = load_tiny(TINY_SHAPES)  # mmdet's GroundingDINO in evaluation mode, on the CPU`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from worker.detectors.stack import GroundingDINO

TINY_SHAPES = Path(__file__).parent / "tiny-shapes"
Stage = dict[str, float]
LANGUAGE_PREFIX = "language_model.language_backbone.body.model."


def build_tiny(directory: Path, model_class: type["GroundingDINO"] | None = None) -> "GroundingDINO":
    """The model of `config.py` in this directory, before `init_weights`.

    Args:
        directory: holds config.py and bert/.
        model_class: a subclass of mmdet's GroundingDINO to build instead of it.
    """
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from worker.detectors.stack import GroundingDINO

    settings = dict(Config.fromfile(directory / "config.py").model)
    settings.pop("type")
    with DefaultScope.overwrite_default_scope("mmdet"):
        return (model_class or GroundingDINO)(**settings)


def load_tiny(directory: Path = TINY_SHAPES) -> "GroundingDINO":
    """The trained model in evaluation mode; RuntimeError if the weights do not fit the configuration exactly."""
    from safetensors.torch import load_file

    model = build_tiny(directory)
    model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)
    return model.eval()


def save_tiny(state: dict[str, "Tensor"], directory: Path, stages: list[Stage]) -> None:
    """Write weights in half precision: the whole model, and its language part once more for transformers."""
    from safetensors.torch import save_file

    half = {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in state.items()}
    language = {
        name.removeprefix(LANGUAGE_PREFIX): value for name, value in half.items() if name.startswith(LANGUAGE_PREFIX)
    }
    metadata = {"format": "pt", "training": json.dumps(stages)}
    save_file(half, directory / "model.safetensors", metadata=metadata)
    save_file(language, directory / "bert" / "model.safetensors", metadata={"format": "pt"})


def read_stages(weights: Path) -> list[Stage]:
    """How these weights came about: one entry a run of train_tiny.py, the first one from nothing."""
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return json.loads((file.metadata() or {}).get("training", "[]"))
