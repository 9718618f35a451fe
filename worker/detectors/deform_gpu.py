"""How a GPU trains deformable attention: by Triton kernels where a trial finds them right and faster, else by PyTorch.

Called by stack.py of this folder, before anything imports `mmcv.ops`. Must not import mmdet.
mmcv calls its compiled function for tensors on a GPU only, and `attend` takes its place: on a CPU nothing of this runs.
The trial, forward and backward, takes place once for each GPU, type of numbers and shape of attention, at first use.
Predictions mostly take the fast path, which has a kernel of its own (fast/gpu.py).
Example: `deform_gpu.install()`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from worker.detectors.deform_attn import ATTENTION_MODULE, attention_gradients, deformable_attention
from worker.detectors.deform_attn import install as install_pytorch
from worker.detectors.trial import kernel_wins

TRIAL_IMAGES, TRIAL_QUERIES = 2, 2048
BEYOND = 0.1  #: of a level: how far outside of it points of the trial may lie
#: Locations of the trial are multiples of 1 / FINENESS, for which 32 bits hold a position exactly: else rounding, which
#: a GPU may leave out between two operations, would move points across lines of cells, where their gradient jumps.
FINENESS = 4096

Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_wins: dict[tuple[object, ...], bool] = {}


class RecomputedAttention(Function):
    """`deformable_attention`, made again for its gradients: its steps would keep several times what its inputs take."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, spatial_shapes, locations, weights)
        return deformable_attention(value, spatial_shapes, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_found: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        grad_value, grad_locations, grad_weights = attention_gradients(*ctx.saved_tensors, grad_found)
        return grad_value, None, grad_locations, grad_weights


def by_triton(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """As `deformable_attention`."""
    kernels = importlib.import_module("worker.detectors.deform_triton")
    found: Tensor = kernels.FusedAttention.apply(value, spatial_shapes, locations, weights)
    return found


def by_pytorch(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """As `deformable_attention`."""
    found: Tensor = RecomputedAttention.apply(value, spatial_shapes, locations, weights)
    return found


class MmcvFunction:
    """In place of mmcv's `MultiScaleDeformableAttnFunction`, which rounds locations to the type of `value`.

    In bfloat16 that moves points by up to a quarter of a cell in a level of 134 cells.
    """

    @staticmethod
    def apply(
        value: Tensor, spatial_shapes: Tensor, level_start: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
    ) -> Tensor:
        """`level_start` follows from the shapes, `im2col_step` only split mmcv's launches."""
        return attend(value, spatial_shapes, locations, weights)


def install() -> bool:
    """As `deform_attn.install`, and what mmcv calls for tensors on a GPU is ours, too."""
    ours = install_pytorch()
    if ours:
        importlib.import_module(ATTENTION_MODULE).MultiScaleDeformableAttnFunction = MmcvFunction
    return ours


def attend(
    value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor, kernels: Attention = by_triton
) -> Tensor:
    """As `deformable_attention`, by the kernels if they win the trial.

    Where PyTorch was told to be deterministic they are not asked: their sums may differ in the last digit.
    """
    if torch.are_deterministic_algorithms_enabled():
        return by_pytorch(value, spatial_shapes, locations, weights)
    types = (value.dtype, locations.dtype, weights.dtype)
    attention = (kernels, value.device, *types, value.shape[3], *weights.shape[2:])
    if attention not in _wins:
        with torch.inference_mode(False), torch.enable_grad():
            _wins[attention] = _try_out(kernels, value, spatial_shapes, locations, weights)
    chosen = kernels if _wins[attention] else by_pytorch
    return chosen(value, spatial_shapes, locations, weights)


def _try_out(kernels: Attention, value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> bool:
    """On random tensors of the types and shapes given, of fewer images and queries."""
    random = torch.Generator(value.device).manual_seed(0)
    shapes = spatial_shapes.clone()
    sizes = shapes.flip(-1)[:, None]  # (levels, 1, 2) width and height
    inside = (TRIAL_IMAGES, TRIAL_QUERIES, *weights.shape[2:])

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=value.device).to(value.dtype)

    points = torch.rand(*inside, 2, generator=random, device=value.device) * (1 + 2 * BEYOND) - BEYOND
    points = (points * FINENESS).round().div(FINENESS).to(locations.dtype)
    shares = torch.rand(inside, generator=random, device=value.device).flatten(3).softmax(-1).view(inside)
    given = (normal(TRIAL_IMAGES, *value.shape[1:]), points, shares.to(weights.dtype))
    grad = normal(TRIAL_IMAGES, TRIAL_QUERIES, value.shape[2] * value.shape[3])

    def run(attention: Attention, *given: Tensor) -> tuple[Tensor, ...]:
        """The output, and gradients of value, positions in cells (so that all are around 1) and weights."""
        inputs = [tensor.detach().requires_grad_() for tensor in given]
        found = attention(inputs[0], shapes, inputs[1], inputs[2])
        grad_value, grad_points, grad_shares = torch.autograd.grad(found, inputs, grad.to(found.dtype))
        return found.detach(), grad_value, grad_points / sizes, grad_shares

    return kernel_wins(
        "the Triton kernel for training",
        lambda: run(kernels, *given),
        lambda: run(by_pytorch, *given),
        exact=run(by_pytorch, *(tensor.float() for tensor in given)),
        device=value.device,
    )
