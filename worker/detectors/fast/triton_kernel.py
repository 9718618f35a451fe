"""Bilinear samples of padded levels on a GPU, in one pass instead of PyTorch's twenty; Triton compiles it at first use.

Called by gpu.py of this folder, which tries it out first. Must not import anything of ours.
Position, corners, weights and sums of a point stay in registers; sums are in 32 bits and rounded once. With
TRITON_INTERPRET=1, set before this module is imported, the same code runs on a CPU, slowly: so it is tested.
Example: `sample(table, pixels, weights, grid.last, grid.row_step, grid.first)`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES_A_PROGRAM = 32  #: of one head; not measured: no GPU was at hand


def sample(table: Tensor, pixels: Tensor, weights: Tensor, last: Tensor, row_step: Tensor, first: Tensor) -> Tensor:
    """As `SamplingGrid.sample`, which says what the first three are; here `pixels` keeps its numbers.

    Args:
        table: of bfloat16, float16 or float32.
        pixels: with any distance between queries.
        weights: as there.
        last, row_step, first: of `SamplingGrid`.

    Returns:
        (images, queries, heads * channels of a head), of the type of the table.
    """
    images, queries, heads, points = weights.shape
    rows, channels = table.shape[1:]
    if pixels.stride()[2:] != (heads * points, 1):
        pixels = pixels.contiguous()
    found = table.new_empty(images, queries, heads * channels)
    given = (table.contiguous(), pixels, weights.contiguous(), last, row_step, first, found)
    programs = (triton.cdiv(queries, QUERIES_A_PROGRAM), heads, images)
    with torch.cuda.device_of(table):  # Triton launches on the current device
        _sample[programs](
            *given,
            *(queries, rows, *pixels.stride()[:2]),
            POINTS=points,
            HEADS=heads,
            CHANNELS=channels,
            LANES=triton.next_power_of_2(channels),
            QUERIES=QUERIES_A_PROGRAM,
        )
    return found


# New sizes of images must not compile anew.
@triton.jit(do_not_specialize=("queries", "rows", "image_step"))
def _sample(
    table,
    pixels,
    weights,
    last,
    row_step,
    first,
    found,
    queries,
    rows,
    image_step,
    query_step,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """One head of some queries of one image; `image_step` and `query_step` are distances in `pixels`."""
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)  # numbers of elements of all images together may pass 2 ** 31
    asked = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    query = tl.minimum(asked, queries - 1)  # those beyond the end repeat the last one: no load needs a mask for them
    lane = tl.arange(0, LANES)[None, :]
    used = lane < CHANNELS

    table += image * rows * CHANNELS + lane
    pixels += image * image_step + query * query_step + head * POINTS
    weights += image * queries * HEADS * POINTS + (query * HEADS + head) * POINTS
    sums = tl.full((QUERIES, LANES), 0.0, tl.float32)
    for point in range(POINTS):
        place = head * POINTS + point
        step = tl.load(row_step + place)
        x, y = tl.load(pixels + point), tl.load(pixels + HEADS * POINTS + point)
        # What is no number becomes -1 as well: a GPU does not recover from reading outside of the table.
        x = tl.minimum(tl.where(x > -1.0, x, -1.0), tl.load(last + place))
        y = tl.minimum(tl.where(y > -1.0, y, -1.0), tl.load(last + HEADS * POINTS + place))
        column, line = tl.floor(x), tl.floor(y)
        # Exact in float32: there are far fewer than 2 ** 24 rows an image.
        row = (tl.load(first + place) + line * step + column * HEADS).to(tl.int32)
        upper = table + (row * CHANNELS)[:, None]
        lower = table + ((row + step.to(tl.int32)) * CHANNELS)[:, None]

        weight = tl.load(weights + point)
        on_right = weight * (x - column)
        on_left = weight - on_right
        lower_right, lower_left = on_right * (y - line), on_left * (y - line)
        sums += (on_left - lower_left)[:, None] * tl.load(upper, mask=used, other=0.0).to(tl.float32)
        right = upper + HEADS * CHANNELS
        sums += (on_right - lower_right)[:, None] * tl.load(right, mask=used, other=0.0).to(tl.float32)
        sums += lower_left[:, None] * tl.load(lower, mask=used, other=0.0).to(tl.float32)
        sums += lower_right[:, None] * tl.load(lower + HEADS * CHANNELS, mask=used, other=0.0).to(tl.float32)
    found += (image * queries + asked)[:, None] * (HEADS * CHANNELS) + head * CHANNELS + lane
    tl.store(found, sums.to(found.dtype.element_ty), mask=(asked < queries)[:, None] & used)
