"""Bilinear samples of 16-bit tables on a CPU, in one pass instead of PyTorch's twenty; Numba compiles it at first use.

Called by sampling.py of this folder, where Numba is installed. Must not import anything of ours.
Position, corners, weights and sums of a point stay in registers; the tensors between PyTorch's steps do not exist.
Numba brings its compiler along (LLVM), compiles in two seconds, and keeps the result on disk where it may write.
Example: `sample(table, pixels, weights, last, row_step, first)`.
"""

from __future__ import annotations

import functools
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
    queries, heads, points = weights.shape
    kernel = _compile(heads, points, table.shape[1])
    found = torch.empty(queries, heads * table.shape[1], dtype=torch.bfloat16)
    given = [one.contiguous().numpy() for one in (pixels, weights, last, row_step, first)]
    # NumPy has no bfloat16: the kernel reads its 16 bits as the upper half of a float32.
    arrays = (table.view(torch.uint16).numpy(), *given, found.view(torch.uint16).numpy())
    threads = torch.get_num_threads()
    step = max(1, -(-queries // (PIECES_A_THREAD * threads)))
    pieces = range(0, queries, step)
    list(_pool(threads).map(lambda begin: kernel(*arrays, begin, min(begin + step, queries)), pieces))
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


@functools.cache
def _compile(heads: int, points: int, channels: int) -> Callable[..., object]:
    """The kernel for one shape of attention: with constant lengths LLVM makes whole vectors of the inner loops.

    Measured for 4,096 queries on two quiet cores: 3.4 ms, 8.9 with lengths read from the arrays, `embedding_bag` 7.4.
    """

    def sample_piece(table, pixels, weights, last, row_step, first, found, begin, end):
        rows, below = np.empty(points, np.int64), np.empty(points, np.int64)
        right, lower = np.empty(points, np.float32), np.empty(points, np.float32)
        sums = np.empty(channels, np.float32)
        for query in range(begin, end):
            for head in range(heads):
                for point in range(points):
                    place = head * points + point
                    x = min(max(pixels[query, 0, place], np.float32(-1)), last[0, place])
                    y = min(max(pixels[query, 1, place], np.float32(-1)), last[1, place])
                    column, line = np.floor(x), np.floor(y)
                    right[point], lower[point] = x - column, y - line
                    rows[point] = np.int64(first[place] + line * row_step[place] + column * np.float32(heads))
                    below[point] = np.int64(row_step[place])
                sums[:] = 0
                for point in range(points):
                    weight = weights[query, head, point]
                    lower_right = weight * right[point] * lower[point]
                    upper_right = weight * right[point] - lower_right
                    lower_left = weight * lower[point] - lower_right
                    upper_left = weight - upper_right - lower_left - lower_right
                    # Unsigned, or every access would ask whether the index counts from the end.
                    corner_1 = np.uint64(rows[point])
                    corner_2 = corner_1 + np.uint64(heads)
                    corner_3 = corner_1 + np.uint64(below[point])
                    corner_4 = corner_3 + np.uint64(heads)
                    for channel in range(channels):
                        sums[channel] += (
                            upper_left * _widen(table[corner_1, channel])
                            + upper_right * _widen(table[corner_2, channel])
                            + lower_left * _widen(table[corner_3, channel])
                            + lower_right * _widen(table[corner_4, channel])
                        )
                for channel in range(channels):
                    found[query, head * channels + channel] = _narrow(sums[channel])

    return _compiled(sample_piece)
