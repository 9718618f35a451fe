"""The model as training needs it: the base's weights, frozen parts, and less precision where that is safe.

Called by worker/train.py. Must not import backend or groundcrew.
Example: `model = build_for_training(prepared_config, weights, options, torch.device("cpu"))`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from mmengine.config import Config
from torch import Tensor, nn

from contract.errors import ConfigError
from worker.detectors.checkpoints import load_strictly
from worker.detectors.stack import GroundingDINO, build_detector
from worker.training.options import TrainOptions

FROZEN_PARTS = {"backbone": "backbone_factor", "language_model": "language_factor"}


class TrainedDino(GroundingDINO):
    """mmdet's GroundingDINO, its weights already loaded; backbone, neck and encoder may compute in bfloat16.

    Decoder and losses stay in float32: the costs of matching have no bfloat16 kernels on a CPU, and small boxes need
    the digits.
    """

    low_precision: bool = False

    def init_weights(self) -> None:
        """Keep the weights: mmengine's Runner calls this before the first update."""

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        with self._autocast(batch_inputs):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def forward_encoder(self, feat: Tensor, **others: Tensor) -> dict[str, Tensor]:
        with self._autocast(feat):
            outputs = super().forward_encoder(feat=feat, **others)
        return {**outputs, "memory": outputs["memory"].float(), "memory_text": outputs["memory_text"].float()}

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.low_precision)


def build_for_training(
    config: Config, weights: Mapping[str, Tensor] | None, options: TrainOptions, device: torch.device
) -> TrainedDino:
    """Build, load and freeze.

    Args:
        config: from `prepare_for_inference`.
        weights: of the base; None draws random ones (tests and timing).
        options: which parts learn, and whether precision may be mixed.
        device: receives the model.

    Raises:
        ConfigError: the model section does not build; CheckpointMismatch: the weights do not fit it.
    """
    section = copy.deepcopy(config.model)  # building changes it, and it is written to the version later
    section.type = TrainedDino
    try:
        model = build_detector(section)
    except Exception as error:  # constructors of any backbone an operator may name
        raise ConfigError(f"CONFIG_FILE {config.filename} does not build: {type(error).__name__}: {error}") from error
    if weights is None:
        GroundingDINO.init_weights(model)
    else:
        load_strictly(model, weights)
    for part, factor in FROZEN_PARTS.items():
        if getattr(options, factor) == 0:
            getattr(model, part).requires_grad_(False)
    model.backbone.apply(_fix_statistics)
    model.low_precision = options.mixed_precision and computes_bfloat16(device)
    return model.to(device)


def _fix_statistics(module: nn.Module) -> None:
    """A few dozen images would spoil the means of batch normalisation; `train()` must not switch it back."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        module.train = lambda mode=True: module  # type: ignore[method-assign, assignment]


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: NVIDIA from Ampere on; a CPU with the instructions, others only emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def describe_optimiser(options: TrainOptions) -> dict[str, object]:
    """mmengine's `optim_wrapper` section, with the learning rates of the parts as in the cat recipe."""
    factors = {part: {"lr_mult": getattr(options, factor)} for part, factor in FROZEN_PARTS.items()}
    return {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": options.learning_rate, "weight_decay": options.weight_decay},
        "clip_grad": {"max_norm": options.largest_gradient, "norm_type": 2},
        "paramwise_cfg": {"custom_keys": {"absolute_pos_embed": {"decay_mult": 0.0}, **factors}},
    }
