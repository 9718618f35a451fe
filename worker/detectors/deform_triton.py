"""Multi-scale deformable attention on a GPU, forward and backward, a kernel each; Triton compiles them at first use.

Called by deform_gpu.py of this folder, which tries them out first. Must not import anything of ours.
As deform_attn.py, in one pass instead of PyTorch's forty operations: position, corners, weights and sums of a point
stay in registers, sums are in 32 bits (in 64 for values of 64). With TRITON_INTERPRET=1, set before this module is
imported, the same code runs on a CPU, slowly: so it is tested.
Example: `FusedAttention.apply(value, spatial_shapes, locations, weights)`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

#: Of one head. Not measured: no GPU was at hand. A thread takes 40 registers forward and 52 backward (compiled for
#: capability 9.0), with 32 queries 40 and 85, so that fewer run at a time.
QUERIES_A_PROGRAM = 16

Gradients = tuple[Tensor, None, Tensor, Tensor]


class FusedAttention(Function):
    """`deform_attn.deformable_attention` by the two kernels; keeps its inputs only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, spatial_shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """As `deform_attn.deformable_attention`; sums are rounded to the type of `value` once."""
        inputs = [tensor.contiguous() for tensor in (value, spatial_shapes, locations, weights)]
        ctx.save_for_backward(*inputs)
        queries, heads = weights.shape[1:3]
        found = value.new_empty(len(value), queries, heads * value.shape[3])
        _launch(_forward, inputs, (found,))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_found: Tensor) -> Gradients:
        """Gradients of value, locations and weights, each of the type of its tensor.

        Those of a value meet from many queries: they are added by atomic operations in 32 bits and rounded once. The
        order of additions differs from run to run, and so may the last digit.
        """
        inputs = ctx.saved_tensors
        value, _, locations, weights = inputs
        grad_value = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        _launch(_backward, inputs, (grad_found.contiguous(), grad_value, grad_locations, grad_weights))
        return grad_value.to(value.dtype), None, grad_locations, grad_weights


def _launch(kernel: Any, inputs: list[Tensor] | tuple[Tensor, ...], others: tuple[Tensor, ...]) -> None:
    """One program for each block of queries, head and image."""
    value, weights = inputs[0], inputs[3]
    images, queries, heads, levels, points = weights.shape
    cells, channels = value.shape[1], value.shape[3]
    with torch.cuda.device_of(value):  # Triton launches on the current device
        kernel[triton.cdiv(queries, QUERIES_A_PROGRAM), heads, images](
            *inputs,
            *others,
            *(queries, cells),
            HEADS=heads,
            LEVELS=levels,
            POINTS=points,
            CHANNELS=channels,
            LANES=triton.next_power_of_2(channels),
            QUERIES=QUERIES_A_PROGRAM,
        )


@triton.jit
def _side(location, size):
    """Lower and upper cell along one axis, kept inside, whether they were inside, and the share of the upper one."""
    # Cell centres lie at half cells, as in deform_attn.py.
    position = location * size - 0.5
    low = tl.floor(position)
    low_inside = (low >= 0.0) & (low <= size - 1.0)
    high_inside = (low >= -1.0) & (low < size - 1.0)
    # As fractional numbers: what is far outside fits no integer. What is no number is inside of nothing.
    low_cell = tl.minimum(tl.maximum(low, 0.0), size - 1.0).to(tl.int32)
    high_cell = tl.minimum(tl.maximum(low + 1.0, 0.0), size - 1.0).to(tl.int32)
    return low_cell, high_cell, low_inside, high_inside, position - low


@triton.jit
def _cells(x, y, height, width, start, STEP: tl.constexpr):
    """Of some points: offsets of the four cells around, whether each is inside, shares of the right and lower ones.

    Upper left, upper right, lower left, lower right; offsets are in numbers from the first cell of the image.
    """
    left, right, left_in, right_in, on_right = _side(x, width.to(x.dtype))
    upper, lower, upper_in, lower_in, on_lower = _side(y, height.to(y.dtype))
    upper, lower = start + upper * width, start + lower * width
    at_0, at_1 = (upper + left).to(tl.int64) * STEP, (upper + right).to(tl.int64) * STEP
    at_2, at_3 = (lower + left).to(tl.int64) * STEP, (lower + right).to(tl.int64) * STEP
    in_0, in_1, in_2, in_3 = upper_in & left_in, upper_in & right_in, lower_in & left_in, lower_in & right_in
    return at_0, at_1, at_2, at_3, in_0, in_1, in_2, in_3, on_right, on_lower


@triton.jit
def _plus(one, other):
    return one + other


@triton.jit
def _read(cells, offset, inside, used, SUM: tl.constexpr):
    """(queries, lanes) channels of one cell for each query; zeros for cells outside."""
    return tl.load(cells + offset[:, None], mask=inside[:, None] & used, other=0.0).to(SUM)


# New sizes of images must not compile anew.
@triton.jit(do_not_specialize=("queries", "cells"))
def _forward(
    value,
    shapes,
    locations,
    weights,
    found,
    queries,
    cells,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """One head of some queries of one image."""
    SUM: tl.constexpr = tl.float64 if value.dtype.element_ty == tl.float64 else tl.float32
    STEP: tl.constexpr = HEADS * CHANNELS
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)  # numbers of elements of all images together may pass 2 ** 31
    asked = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row = (image * queries + tl.minimum(asked, queries - 1)) * HEADS + head  # those beyond the end repeat the last one
    lane = tl.arange(0, LANES)[None, :]
    used = lane < CHANNELS
    value += (image * cells * HEADS + head) * CHANNELS + lane

    sums = tl.full((QUERIES, LANES), 0.0, SUM)
    start = 0
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level).to(tl.int32), tl.load(shapes + 2 * level + 1).to(tl.int32)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y = tl.load(locations + 2 * at).to(SUM), tl.load(locations + 2 * at + 1).to(SUM)
            at_0, at_1, at_2, at_3, in_0, in_1, in_2, in_3, right, lower = _cells(x, y, height, width, start, STEP)
            weight = tl.load(weights + at).to(SUM)
            on_lower, on_upper = weight * lower, weight * (1.0 - lower)
            sums += (on_upper * (1.0 - right))[:, None] * _read(value, at_0, in_0, used, SUM)
            sums += (on_upper * right)[:, None] * _read(value, at_1, in_1, used, SUM)
            sums += (on_lower * (1.0 - right))[:, None] * _read(value, at_2, in_2, used, SUM)
            sums += (on_lower * right)[:, None] * _read(value, at_3, in_3, used, SUM)
        start += height * width
    tl.store(found + row[:, None] * CHANNELS + lane, sums.to(found.dtype.element_ty), (asked < queries)[:, None] & used)


@triton.jit(do_not_specialize=("queries", "cells"))
def _backward(
    value,
    shapes,
    locations,
    weights,
    grad_found,
    grad_value,
    grad_locations,
    grad_weights,
    queries,
    cells,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """One head of some queries of one image; `grad_value` is added to, the other two are written."""
    SUM: tl.constexpr = tl.float64 if value.dtype.element_ty == tl.float64 else tl.float32
    STEP: tl.constexpr = HEADS * CHANNELS
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    asked = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row = (image * queries + tl.minimum(asked, queries - 1)) * HEADS + head
    real = asked < queries
    lane = tl.arange(0, LANES)[None, :]
    used = lane < CHANNELS
    first = (image * cells * HEADS + head) * CHANNELS + lane
    value += first
    grad_value += first

    wanted = real[:, None] & used
    grad = tl.load(grad_found + row[:, None] * CHANNELS + lane, mask=wanted, other=0.0).to(SUM)
    start = 0
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level).to(tl.int32), tl.load(shapes + 2 * level + 1).to(tl.int32)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            x, y = tl.load(locations + 2 * at).to(SUM), tl.load(locations + 2 * at + 1).to(SUM)
            at_0, at_1, at_2, at_3, in_0, in_1, in_2, in_3, right, lower = _cells(x, y, height, width, start, STEP)
            weight = tl.load(weights + at).to(SUM)
            left, upper = 1.0 - right, 1.0 - lower

            to_0, to_1 = (weight * upper * left)[:, None] * grad, (weight * upper * right)[:, None] * grad
            to_2, to_3 = (weight * lower * left)[:, None] * grad, (weight * lower * right)[:, None] * grad
            tl.atomic_add(grad_value + at_0[:, None], to_0, mask=in_0[:, None] & wanted, sem="relaxed")
            tl.atomic_add(grad_value + at_1[:, None], to_1, mask=in_1[:, None] & wanted, sem="relaxed")
            tl.atomic_add(grad_value + at_2[:, None], to_2, mask=in_2[:, None] & wanted, sem="relaxed")
            tl.atomic_add(grad_value + at_3[:, None], to_3, mask=in_3[:, None] & wanted, sem="relaxed")

            # what a change of each corner's share is worth
            dot_0 = tl.reduce(grad * _read(value, at_0, in_0, used, SUM), 1, _plus)
            dot_1 = tl.reduce(grad * _read(value, at_1, in_1, used, SUM), 1, _plus)
            dot_2 = tl.reduce(grad * _read(value, at_2, in_2, used, SUM), 1, _plus)
            dot_3 = tl.reduce(grad * _read(value, at_3, in_3, used, SUM), 1, _plus)
            grad_weight = upper * (left * dot_0 + right * dot_1) + lower * (left * dot_2 + right * dot_3)
            grad_x = weight * width * (upper * (dot_1 - dot_0) + lower * (dot_3 - dot_2))
            grad_y = weight * height * (left * (dot_2 - dot_0) + right * (dot_3 - dot_1))
            tl.store(grad_weights + at, grad_weight.to(grad_weights.dtype.element_ty), real)
            tl.store(grad_locations + 2 * at, grad_x.to(grad_locations.dtype.element_ty), real)
            tl.store(grad_locations + 2 * at + 1, grad_y.to(grad_locations.dtype.element_ty), real)
        start += height * width
