"""Bilinear samples of 16-bit tables on a CPU, in one pass instead of PyTorch's twenty; Numba compiles it at first use.

Called by sampling.py of this folder, where Numba is installed. Must not import anything of ours.
Position, corners, weights and sums of a point stay in registers; the tensors between PyTorch's steps do not exist.
Numba brings its compiler along (LLVM), compiles in two seconds, and keeps the result on disk where it may write.
Example: `sample(table, pixels, weights, last, row_step, first)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

PIECES_A_THREAD = 4  #: so that a thread that was held up leaves work to the others
FREEDOM = {"contract", "reassoc", "nsz"}  #: of arithmetic: sums in any order; not: that nothing is infinite


def _compiled(function: Callable[..., object]) -> Callable[..., object]:
    try:
        return numba.njit(function, nogil=True, fastmath=FREEDOM, cache=True)
    except RuntimeError:  # there is no directory to keep the result in: two seconds at each start
        return numba.njit(function, nogil=True, fastmath=FREEDOM)


def sample(table: Tensor, pixels: Tensor, weights: Tensor, last: Tensor, row_step: Tensor, first: Tensor) -> Tensor:
    """As `SamplingGrid.sample`, for one image.

    Args:
        table: (rows, channels of a head) bfloat16.
        pixels: (queries, 2, heads * levels * points) float32.
        weights: (queries, heads, levels * points) float32.
        last, row_step, first: of `SamplingGrid`.

    Returns:
        (queries, heads * channels of a head) bfloat16.
    """
    queries, heads, _ = weights.shape
    found = torch.empty(queries, heads * table.shape[1], dtype=torch.bfloat16)
    given = [one.contiguous().numpy() for one in (pixels, weights, last, row_step, first)]
    # NumPy has no bfloat16: the kernel reads its 16 bits as the upper half of a float32.
    arrays = (table.view(torch.uint16).numpy(), *given, found.view(torch.uint16).numpy())
    threads = torch.get_num_threads()
    step = max(1, -(-queries // (PIECES_A_THREAD * threads)))
    pieces = range(0, queries, step)
    list(_pool(threads).map(lambda begin: _sample_piece(*arrays, begin, min(begin + step, queries)), pieces))
    return found


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sample")


@_compiled
def _widen(bits):
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_compiled
def _narrow(value):
    """Round to the nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@_compiled
def _sample_piece(table, pixels, weights, last, row_step, first, found, begin, end):
    """Queries from `begin` to `end`; what numba compiles, so: loops."""
    heads, points = weights.shape[1:]
    channels = table.shape[1]
    sums = np.empty(channels, np.float32)
    for query in range(begin, end):
        for head in range(heads):
            sums[:] = 0
            for point in range(points):
                place = head * points + point
                x = min(max(pixels[query, 0, place], np.float32(-1)), last[0, place])
                y = min(max(pixels[query, 1, place], np.float32(-1)), last[1, place])
                left, upper = math.floor(x), math.floor(y)
                below = np.int64(row_step[place])
                row = np.int64(first[place]) + np.int64(upper) * below + np.int64(left) * heads
                right_part, lower_part = np.float32(x - left), np.float32(y - upper)
                weight = weights[query, head, point]
                lower_right = weight * right_part * lower_part
                upper_right = weight * right_part - lower_right
                lower_left = weight * lower_part - lower_right
                upper_left = weight - upper_right - lower_left - lower_right
                corner_1, corner_2 = table[row], table[row + heads]
                corner_3, corner_4 = table[row + below], table[row + below + heads]
                for channel in range(channels):
                    sums[channel] += (
                        upper_left * _widen(corner_1[channel])
                        + upper_right * _widen(corner_2[channel])
                        + lower_left * _widen(corner_3[channel])
                        + lower_right * _widen(corner_4[channel])
                    )
            for channel in range(channels):
                found[query, head * channels + channel] = _narrow(sums[channel])
