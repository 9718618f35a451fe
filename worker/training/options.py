"""How a fine-tune runs and what it says of itself: options with safe defaults, and progress.

Called by worker/train.py and everything in this folder, and by whoever starts a training.
Must not import torch, mmdet or the rest of worker: plain data.
Example: `read_options(Path("groundcrew/zoo/tiny-shapes"), {"iterations": 50}).iterations == 50`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.errors import SettingsError

RECIPE_FILE = "recipe.json"  #: beside a model's config.py: options that were measured to suit it


@dataclass(frozen=True)
class TrainOptions:
    """Defaults are MM Grounding DINO's recipe for a small data set of one's own, the "cat" recipe.

    Source: mmdet 3.3.0, configs/mm_grounding_dino/grounding_dino_swin-t_finetune_8xb4_20e_cat.py and the
    pretraining config that it extends. What differs from it has a measurement or a reason here.
    """

    learning_rate: float = 1e-4
    backbone_factor: float = 0.0  #: its learning rate, as a part of `learning_rate`; 0 freezes
    language_factor: float = 0.0
    weight_decay: float = 1e-4
    largest_gradient: float = 0.1  #: norm that gradients are clipped to

    epochs: float = 20.0  #: passes over the project's images
    iterations: int = 0  #: updates of the weights; 0 for as many as `epochs` takes, at least `least_iterations`
    least_iterations: int = 100  #: a handful of images would be over before the rate has warmed up
    time_limit_s: float = 0.0  #: the schedule is shortened to end by then; 0 for no limit
    warm_up_part: float = 0.05  #: of the schedule; then half a cosine. A step at the end needs a known best epoch

    batch_size: int = 4  #: images an update, of one process
    chunk_size: int = 4  #: images in memory at once, gradients are added up; halved whenever memory runs out
    processes: int = 1  #: GPUs of this host (gloo processes on a CPU)
    loader_workers: int = 0  #: processes that read images ahead; pays for large photos
    mixed_precision: bool = True  #: bfloat16 in backbone and encoder, where the device computes in it

    replay_part: float = 0.5  #: of the images shown, from the base's own replay.zip, if it ships one
    average_momentum: float = 0.01  #: of the exponential moving average of the weights, which is what is published
    validations: int = 5  #: measurements on val, evenly spread; the last weights that were about the best are published
    patience: int = 2  #: measurements in a row that are clearly worse than the best, and end the training early

    scale_range: tuple[float, float] = (0.6, 1.0)  #: of the size for inference: 480 to 800 in the recipe; one a batch
    crop_chance: float = 0.5
    flip_chance: float = 0.5  #: none if a prompt says left or right

    save_every_s: float = 60.0  #: time between checkpoints, which is what a killed trainer loses
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work: SettingsError."""
        for name in ("epochs", "batch_size", "chunk_size", "processes", "validations", "save_every_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"training option {name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.replay_part < 1:
            raise SettingsError(f"training option replay_part must be 0 or more and below 1, not {self.replay_part}")


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    epoch: float  #: passes over the project's images
    iteration: int
    iterations: int
    loss: float  #: mean of the last iterations
    eta_s: float
    map: float | None = None  #: COCO mAP on val, the latest measured
    weighted_map: float | None = None  #: the same, each label counted by its annotated boxes


def read_options(base_directory: Path | None, overrides: Mapping[str, object] | None = None) -> TrainOptions:
    """The defaults, changed by the base's own recipe.json, changed by `overrides`.

    Raises:
        SettingsError: an option does not exist or has a bad value.
    """
    recipe: dict[str, object] = {}
    if base_directory is not None and (base_directory / RECIPE_FILE).is_file():
        recipe = json.loads((base_directory / RECIPE_FILE).read_text())
    values = {**recipe, **(overrides or {})}
    known = {field.name: field for field in dataclasses.fields(TrainOptions)}
    for name in values.keys() - known.keys():
        raise SettingsError(f"there is no training option {name!r}; known: {', '.join(known)}")
    return TrainOptions(**{name: _read_value(name, known[name].default, value) for name, value in values.items()})


def _read_value(name: str, default: object, value: object) -> object:
    """A value of the type of the default; JSON and command lines know fewer types."""
    try:
        if isinstance(default, tuple):
            low, high = value  # type: ignore[misc]
            return float(low), float(high)
        return type(default)(value)  # type: ignore[call-arg]
    except (TypeError, ValueError):
        raise SettingsError(f"training option {name} cannot be {value!r}") from None
