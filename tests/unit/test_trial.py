"""A kernel for GPUs that nobody has measured is used only where it is right and faster; else PyTorch's sums are given.

The decision is the same on a CPU, where these tests run it; kernels that are wrong, slow or broken are given in.
"""

from __future__ import annotations

import importlib
import logging
import time

import pytest
import torch
from torch import Tensor

from worker.detectors.fast import gpu
from worker.detectors.fast.sampling import SamplingGrid

SHAPES = ((6, 8), (3, 4))
HEADS, POINTS, CHANNELS = 2, 2, 8
TYPES = [torch.float32, torch.bfloat16]


class SlowGrid(SamplingGrid):
    """PyTorch's operations, on a bad day; counts how often they are asked."""

    asked = 0

    def sample_by_bags(self, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        SlowGrid.asked += 1
        time.sleep(0.02)
        return super().sample_by_bags(table, pixels, weights)


def right(grid: SamplingGrid, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Sums in 32 bits, rounded once, as the real kernel's are."""
    return SamplingGrid.sample_by_bags(grid, table.float(), pixels, weights).to(table.dtype)


@pytest.fixture(autouse=True)
def nothing_is_decided_yet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(gpu, "_wins", {})
    monkeypatch.setattr(SlowGrid, "asked", 0)
    monkeypatch.setattr(gpu, "TRIAL_QUERIES", 40)
    caplog.set_level(logging.INFO, "worker.detectors.trial")


def make_inputs(dtype: torch.dtype) -> tuple[SamplingGrid, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    grid = SlowGrid.of(SHAPES, HEADS, POINTS, torch.device("cpu"))
    table = grid.fill(torch.randn(1, 60, HEADS * CHANNELS, generator=random).to(dtype))
    pixels = torch.rand(1, 5, 2, len(grid.row_step), generator=random) * grid.last
    return grid, table, pixels, torch.rand(1, 5, HEADS, len(SHAPES) * POINTS, generator=random)


def sample_twice(kernel: gpu.Sampler, dtype: torch.dtype) -> tuple[Tensor, int]:
    """The second answer, and how often PyTorch's operations were asked for it."""
    grid, table, pixels, weights = make_inputs(dtype)
    gpu.sample(grid, table, pixels.clone(), weights, kernel)
    before = SlowGrid.asked
    return gpu.sample(grid, table, pixels.clone(), weights, kernel), SlowGrid.asked - before


def by_pytorch(dtype: torch.dtype) -> Tensor:
    return SamplingGrid.sample_by_bags(*make_inputs(dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_right_and_faster_kernel_is_used(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    found, asked = sample_twice(right, dtype)

    assert asked == 0
    torch.testing.assert_close(found, right(*make_inputs(dtype)), atol=0, rtol=0)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "the Triton kernel for sampling is used on cpu: " in caplog.text


@pytest.mark.parametrize("dtype", TYPES)
def test_a_wrong_kernel_is_not(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    """Its points lie a fiftieth of a cell too far to the right, which a glance at the numbers would not show."""

    def wrong(grid: SamplingGrid, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        return right(grid, table, pixels + torch.tensor([[0.02], [0.0]]), weights)

    found, asked = sample_twice(wrong, dtype)

    assert asked == 1
    torch.testing.assert_close(found, by_pytorch(dtype), atol=0, rtol=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not used on cpu: AssertionError: its results differ from PyTorch's by more than rounding" in caplog.text


def test_a_kernel_whose_results_are_no_numbers_is_not(caplog: pytest.LogCaptureFixture) -> None:
    found, _ = sample_twice(lambda *given: right(*given) * torch.nan, torch.float32)

    torch.testing.assert_close(found, by_pytorch(torch.float32), atol=0, rtol=0)
    assert "differ" in caplog.text


def test_a_kernel_that_raises_is_not_and_one_line_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*given: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    found, asked = sample_twice(broken, torch.float32)

    assert asked == 1
    torch.testing.assert_close(found, by_pytorch(torch.float32), atol=0, rtol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "the Triton kernel for sampling is not used on cpu: RuntimeError: Failed to find C compiler."
    ]


def test_the_real_kernel_is_right_but_slower_in_its_interpreter(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("worker.detectors.fast.triton_kernel")

        found, asked = sample_twice(gpu.by_triton, torch.bfloat16)

    assert asked == 1
    torch.testing.assert_close(found, by_pytorch(torch.bfloat16), atol=0, rtol=0)
    assert "is right but not used on cpu" in caplog.text


def test_each_type_and_shape_of_attention_has_a_trial_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    for dtype in (*TYPES, *TYPES):
        sample_twice(right, dtype)

    assert len(caplog.records) == 2
