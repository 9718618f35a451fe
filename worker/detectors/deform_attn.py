"""Multi-scale deformable attention in PyTorch, so that mmcv without compiled ops is enough.

Called by deform_gpu.py of this folder, before anything imports `mmcv.ops`, and by benchmarks.
Must not import contract, backend, groundcrew or other modules of worker; torch is its only dependency.
Example: `from worker.detectors import deform_attn; deform_attn.install()`.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional

EXTENSION_NAME = "mmcv._ext"
ATTENTION_MODULE = "mmcv.ops.multi_scale_deform_attn"
REMEDY = "pip install groundcrew[full-mmcv]"


class OpNotCompiledError(RuntimeError):
    """A compiled op of mmcv was called that mmcv-lite lacks; the message names the op and the remedy."""

    def __init__(self, op_name: str) -> None:
        super().__init__(f"mmcv-lite has no compiled op '{op_name}'. If your model needs it: {REMEDY}")
        self.op_name = op_name


def install() -> bool:
    """Make `import mmcv.ops` work with mmcv-lite, and its deformable attention fast; safe to call again.

    A full mmcv (one that brings its own `mmcv._ext`) is left alone.

    Returns:
        True if this process now runs on our ops, False if it runs on a full mmcv.
    """
    if isinstance(sys.modules.get(EXTENSION_NAME), _Extension):
        return True
    if importlib.util.find_spec(EXTENSION_NAME) is not None:
        return False
    sys.modules[EXTENSION_NAME] = _Extension()
    # mmcv calls the compiled op on CUDA only; on the CPU it calls this function, which we replace by the faster one.
    attention = importlib.import_module(ATTENTION_MODULE)
    attention.multi_scale_deformable_attn_grid_sample = attention.multi_scale_deformable_attn_pytorch
    attention.multi_scale_deformable_attn_pytorch = deformable_attention
    return True


def deformable_attention(value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum of bilinear samples, as equation 3 of Deformable DETR (arXiv 2010.04159).

    Every sampling point is a weighted sum of its four nearest cells, and every output a weighted sum of its sampling
    points: one `embedding_bag` over the rows of `value` does both, without the copies that `grid_sample` needs.

    Args:
        value: (batch, cells, heads, channels), the cells of all levels one after the other, row by row.
        spatial_shapes: (levels, 2) height and width of each level, in cells.
        locations: (batch, queries, heads, levels, points, 2) x and y, 0 to 1 across the level.
        weights: (batch, queries, heads, levels, points) attention weights.

    Returns:
        (batch, queries, heads * channels), of the dtype of `value`; cells outside a level count as zero.
    """
    batch, cells, heads, channels = value.shape
    queries = locations.shape[1]
    corner_cell, corner_weight = _corners(spatial_shapes, locations, weights)
    device = value.device
    first_row = torch.arange(batch, device=device).view(-1, 1, 1) * (cells * heads) + torch.arange(heads, device=device)
    row = corner_cell.mul_(heads).add_(first_row.view(batch, 1, heads, 1, 1, 1))  # row of the flattened value
    bags = functional.embedding_bag(
        row.view(batch * queries * heads, -1),
        value.reshape(batch * cells * heads, channels),
        per_sample_weights=corner_weight.to(value.dtype).view(batch * queries * heads, -1),
        mode="sum",
    )
    return bags.view(batch, queries, heads * channels)


def attention_gradients(
    value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor, grad_output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, from the inputs alone: the output is computed again."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    with torch.enable_grad():
        output = deformable_attention(inputs[0], spatial_shapes, inputs[1], inputs[2])
    grad_value, grad_locations, grad_weights = torch.autograd.grad(output, inputs, grad_output)
    return grad_value, grad_locations, grad_weights


def _corners(spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Cell number (counted over all levels) and weight of the four cells around each point.

    Both are (batch, queries, heads, levels, points, 4): upper left, upper right, lower left, lower right.
    """
    height, width = spatial_shapes[:, 0, None], spatial_shapes[:, 1, None]  # (levels, 1)
    left, right, weight_left, weight_right = _sides(locations[..., 0], width)
    upper, lower, weight_upper, weight_lower = _sides(locations[..., 1], height)
    start = _level_starts(spatial_shapes)[:, None]
    upper, lower = upper * width + start, lower * width + start
    weight_upper, weight_lower = weight_upper * weights, weight_lower * weights
    cells = (upper + left, upper + right, lower + left, lower + right)
    corner_weights = (
        weight_upper * weight_left,
        weight_upper * weight_right,
        weight_lower * weight_left,
        weight_lower * weight_right,
    )
    return torch.stack(cells, -1), torch.stack(corner_weights, -1)


def _sides(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper cell along one axis, kept inside the level, and their weights (zero for one outside)."""
    # Cell centres lie at half cells: `align_corners=False` of grid_sample.
    position = location * size - 0.5
    low = position.detach().floor()
    fraction = position - low
    last = size - 1
    low_inside = (low >= 0) & (low <= last)
    high_inside = (low >= -1) & (low < last)
    low_cell = low.clamp(torch.zeros_like(last), last).long()
    high_cell = (low + 1).clamp(torch.zeros_like(last), last).long()
    return low_cell, high_cell, (1 - fraction) * low_inside, fraction * high_inside


def _level_starts(spatial_shapes: Tensor) -> Tensor:
    """Number of the first cell of each level, (levels,)."""
    areas = spatial_shapes.prod(-1)
    return areas.cumsum(0) - areas


def ms_deform_attn_forward(
    value: Tensor, spatial_shapes: Tensor, level_start: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """mmcv's compiled forward op: `level_start` follows from the shapes, `im2col_step` only split its launches."""
    return deformable_attention(value, spatial_shapes, locations, weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    im2col_step: int,
) -> None:
    """mmcv's compiled backward op: adds the gradients to the last three tensors, in place."""
    gradients = attention_gradients(value, spatial_shapes, locations, weights, grad_output)
    for target, gradient in zip((grad_value, grad_locations, grad_weights), gradients, strict=True):
        target.add_(gradient)


class _Extension(ModuleType):
    """Stands in for mmcv's compiled module: two real ops, a clear error for each of the others."""

    def __init__(self) -> None:
        super().__init__(EXTENSION_NAME)
        # mmengine looks the module up with find_spec, which raises for a module that has no spec.
        self.__spec__ = importlib.machinery.ModuleSpec(EXTENSION_NAME, loader=None, origin=__name__)
        self.ms_deform_attn_forward = ms_deform_attn_forward
        self.ms_deform_attn_backward = ms_deform_attn_backward

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*arguments: object, **options: object) -> NoReturn:
            raise OpNotCompiledError(name)

        return refuse
