"""The GPU's sampling kernel gives the sums of the plain op, rounded once, and compiles for the GPUs there are.

Triton's interpreter runs it on a CPU; Triton's compiler needs no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

if sys.platform != "linux":
    pytest.skip("Triton is published for Linux only", allow_module_level=True)
from tests.unit.triton_builds import build, compiled, interpreted
from worker.detectors import deform_attn
from worker.detectors.fast.sampling import SamplingGrid

NAME = "worker.detectors.fast.triton_kernel"
SHAPES = ((16, 20), (8, 10), (3, 5))
HEADS, POINTS, QUERIES = 2, 4, 41


@pytest.fixture(scope="module")
def kernel() -> Iterator[ModuleType]:
    """The module as Triton's interpreter runs it, on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield interpreted(NAME)


def make_inputs(images: int, channels: int, outside: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values (images, cells, heads, channels), locations as fractions (some outside of the levels) and weights."""
    random = torch.Generator().manual_seed(5)
    cells = sum(height * width for height, width in SHAPES)
    values = torch.randn(images, cells, HEADS, channels, generator=random)
    locations = torch.rand(images, QUERIES, HEADS, len(SHAPES), POINTS, 2, generator=random)
    weights = torch.rand(images, QUERIES, HEADS, len(SHAPES), POINTS, generator=random)
    return values, locations * (1 + 2 * outside) - outside, weights


def run(kernel: ModuleType, values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Pixels lie between other numbers, as those of the encoder do."""
    grid = SamplingGrid.of(SHAPES, HEADS, POINTS, values.device)
    pixels = locations.movedim(-1, 2).flatten(3) * grid.last - 0.5
    wide = torch.cat((pixels.flatten(2), torch.full_like(weights.flatten(2), torch.nan)), 2)
    apart = wide[..., : 2 * len(grid.row_step)].unflatten(-1, (2, -1))
    return kernel.sample(grid.fill(values.flatten(2)), apart, weights.flatten(3), grid.last, grid.row_step, grid.first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_gives_the_sums_of_the_plain_op(kernel: ModuleType, dtype: torch.dtype) -> None:
    values, locations, weights = make_inputs(2, 8, outside=0.15)
    values = values.to(dtype)

    found = run(kernel, values, locations, weights)

    expected = deform_attn.deformable_attention(values.float(), torch.tensor(SHAPES), locations, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-5, rtol=torch.finfo(dtype).eps)


def test_points_on_and_beyond_the_border(kernel: ModuleType) -> None:
    values, locations, weights = make_inputs(1, 8, 0.0)
    for query, edge in enumerate([-1e9, -0.5, 0.0, 0.5, 1.0, 1.5, 1e9]):
        locations[:, query] = edge

    found = run(kernel, values, locations, weights)

    expected = deform_attn.deformable_attention(values, torch.tensor(SHAPES), locations, weights)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_heads_of_a_width_that_is_no_power_of_two(kernel: ModuleType) -> None:
    inputs = make_inputs(3, 12, 0.15)

    found = run(kernel, *inputs)

    values, locations, weights = inputs
    expected = deform_attn.deformable_attention(values, torch.tensor(SHAPES), locations, weights)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_a_point_that_is_no_number_reads_inside_the_table(kernel: ModuleType) -> None:
    values, locations, weights = make_inputs(1, 8, 0.0)

    found = run(kernel, values, torch.full_like(locations, torch.nan), weights)

    assert (found == 0).all()  # the border's cells


def test_no_queries_are_no_rows(kernel: ModuleType) -> None:
    values, locations, weights = make_inputs(1, 8, 0.0)

    found = run(kernel, values, locations[:, :0], weights[:, :0])

    assert found.shape == (1, 0, HEADS * 8)


@pytest.mark.parametrize(("capability", "dtype"), [(75, "fp32"), (80, "fp16"), (90, "bf16"), (100, "bf16")])
def test_the_compiler_takes_what_the_interpreter_takes(
    capability: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = compiled(NAME)
    sizes = {"POINTS": 16, "HEADS": 8, "CHANNELS": 32, "LANES": 32, "QUERIES": module.QUERIES_A_PROGRAM}
    types = dict.fromkeys(("table", "found"), f"*{dtype}")
    types |= dict.fromkeys(("pixels", "weights", "last", "row_step", "first"), "*fp32")

    built = build(module._sample, capability, types, sizes)

    assert built.asm["cubin"]
