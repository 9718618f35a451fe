"""Samples of padded levels equal mmcv's formula, by PyTorch's `embedding_bag` and by the compiled kernel alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.detectors import deform_attn
from worker.detectors.fast import kernel
from worker.detectors.fast.sampling import SamplingGrid

SHAPES = ((16, 20), (8, 10), (3, 5))
HEADS, POINTS, CHANNELS, QUERIES = 2, 4, 8, 41


def make_inputs(images: int, outside: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations as fractions (some outside of the levels) and weights."""
    random = torch.Generator().manual_seed(5)
    cells = sum(height * width for height, width in SHAPES)
    values = torch.randn(images, cells, HEADS * CHANNELS, generator=random)
    locations = torch.rand(images, QUERIES, HEADS, len(SHAPES), POINTS, 2, generator=random)
    weights = torch.rand(images, QUERIES, HEADS, len(SHAPES), POINTS, generator=random)
    return values, locations * (1 + 2 * outside) - outside, weights


def to_pixels(locations: Tensor, grid: SamplingGrid) -> Tensor:
    """(images, queries, 2, heads * levels * points), in cells."""
    return locations.movedim(-1, 2).flatten(3) * grid.last - 0.5


def expect(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    of_heads = values.unflatten(-1, (HEADS, CHANNELS))
    return deform_attn.deformable_attention(of_heads, torch.tensor(SHAPES), locations, weights)


@pytest.mark.parametrize("outside", [0.0, 0.15, 2.0])
@pytest.mark.parametrize("images", [1, 3])
def test_padded_levels_give_the_sums_of_the_plain_op(images: int, outside: float) -> None:
    values, locations, weights = make_inputs(images, outside)
    grid = SamplingGrid.of(SHAPES, HEADS, POINTS, values.device)

    found = grid.sample(grid.fill(values), to_pixels(locations, grid), weights.flatten(3))

    torch.testing.assert_close(found, expect(values, locations, weights), atol=2e-5, rtol=0)


@pytest.mark.parametrize("edge", [-1e9, -0.5, 0.0, 0.5, 1.0, 1.5, 1e9])
def test_points_on_and_beyond_the_border(edge: float) -> None:
    values, locations, weights = make_inputs(1, 0.0)
    locations = torch.full_like(locations, edge)
    grid = SamplingGrid.of(SHAPES, HEADS, POINTS, values.device)

    found = grid.sample(grid.fill(values), to_pixels(locations, grid), weights.flatten(3))

    torch.testing.assert_close(found, expect(values, locations, weights), atol=2e-5, rtol=0)


@pytest.mark.parametrize("outside", [0.0, 0.15, 2.0])
def test_the_kernel_gives_the_sums_of_the_plain_op_rounded_once(outside: float) -> None:
    values, locations, weights = make_inputs(2, outside)
    values = values.bfloat16()
    grid = SamplingGrid.of(SHAPES, HEADS, POINTS, values.device)

    found = grid.sample(grid.fill(values), to_pixels(locations, grid), weights.flatten(3))

    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expect(values.float(), locations, weights), atol=1e-4, rtol=2**-8)


def test_no_queries_are_no_rows() -> None:
    values, locations, weights = make_inputs(1, 0.0)
    grid = SamplingGrid.of(SHAPES, HEADS, POINTS, values.device)
    table = grid.fill(values.bfloat16())[0]

    found = kernel.sample(
        table, to_pixels(locations, grid)[0, :0], weights.flatten(3)[0, :0], grid.last, grid.row_step, grid.first
    )

    assert found.shape == (0, HEADS * CHANNELS)
