"""On a GPU deformable attention is trained by kernels only where they are right, gradients included, and faster.

The decision is the same on a CPU, where these tests run it; kernels that are wrong, slow or broken are given in.
"""

from __future__ import annotations

import logging
import time

import pytest
import torch
from torch import Tensor

from worker.detectors import deform_gpu
from worker.detectors.deform_attn import deformable_attention
from worker.detectors.deform_gpu import Attention, MmcvFunction, RecomputedAttention

SHAPES = ((6, 8), (3, 4))
HEADS, POINTS, CHANNELS = 2, 2, 8
TYPES = [torch.float32, torch.bfloat16]

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class PyTorch:
    """`deform_gpu.by_pytorch`, on a bad day; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        self.asked += 1
        time.sleep(0.02)
        return RecomputedAttention.apply(*inputs)


@pytest.fixture(autouse=True)
def pytorch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> PyTorch:
    """Nothing is decided yet."""
    slow = PyTorch()
    monkeypatch.setattr(deform_gpu, "_wins", {})
    monkeypatch.setattr(deform_gpu, "by_pytorch", slow)
    monkeypatch.setattr(deform_gpu, "TRIAL_QUERIES", 40)
    caplog.set_level(logging.INFO, "worker.detectors.trial")
    return slow


def make_inputs(dtype: torch.dtype = torch.float32) -> Inputs:
    random = torch.Generator().manual_seed(3)
    value = torch.randn(1, 60, HEADS, CHANNELS, generator=random).to(dtype)
    locations = torch.rand(1, 5, HEADS, len(SHAPES), POINTS, 2, generator=random)
    weights = torch.rand(1, 5, HEADS, len(SHAPES), POINTS, generator=random)
    return value, torch.tensor(SHAPES), locations, weights


def right(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Sums in 32 bits, rounded once, as those of the real kernels are."""
    return deformable_attention(value.float(), shapes, locations, weights).to(value.dtype)


def spoil_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The tensor, with a gradient that is `factor` times its own."""
    return tensor * factor + (tensor * (1 - factor)).detach()


def attend_twice(kernels: Attention, pytorch: PyTorch, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int]:
    """The second answer, and how often PyTorch was asked for it."""
    deform_gpu.attend(*make_inputs(dtype), kernels)
    before = pytorch.asked
    return deform_gpu.attend(*make_inputs(dtype), kernels), pytorch.asked - before


@pytest.mark.parametrize("dtype", TYPES)
def test_right_and_faster_kernels_are_used(
    dtype: torch.dtype, pytorch: PyTorch, caplog: pytest.LogCaptureFixture
) -> None:
    found, asked = attend_twice(right, pytorch, dtype)

    assert asked == 0
    torch.testing.assert_close(found, right(*make_inputs(dtype)), atol=0, rtol=0)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "the Triton kernel for training is used on cpu: " in caplog.text


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("spoiled", ["value", "locations", "weights"])
def test_kernels_with_one_wrong_gradient_are_not(
    dtype: torch.dtype, spoiled: str, pytorch: PyTorch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their output is right, and one of the gradients a fiftieth too large."""

    def wrong(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        given = {"value": value.float(), "locations": locations, "weights": weights}
        given[spoiled] = spoil_gradient(given[spoiled], 1.02)
        return deformable_attention(given["value"], shapes, given["locations"], given["weights"]).to(value.dtype)

    _, asked = attend_twice(wrong, pytorch, dtype)

    assert asked == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not used on cpu: AssertionError: its results differ from PyTorch's by more than rounding" in caplog.text


def test_kernels_with_a_wrong_output_are_not(pytorch: PyTorch, caplog: pytest.LogCaptureFixture) -> None:
    """Points a fiftieth of a cell too far to the right."""

    def wrong(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return right(value, shapes, locations + torch.tensor([0.0025, 0.0]), weights)

    found, asked = attend_twice(wrong, pytorch)

    assert asked == 1
    torch.testing.assert_close(found, deformable_attention(*make_inputs()), atol=0, rtol=0)
    assert "differ" in caplog.text


def test_kernels_that_raise_are_not_and_one_line_says_why(pytorch: PyTorch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*inputs: Tensor) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    found, asked = attend_twice(broken, pytorch)

    assert asked == 1
    torch.testing.assert_close(found, deformable_attention(*make_inputs()), atol=0, rtol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "the Triton kernel for training is not used on cpu: RuntimeError: Failed to find C compiler."
    ]


def test_slower_kernels_are_not(pytorch: PyTorch, caplog: pytest.LogCaptureFixture) -> None:
    def slow(*inputs: Tensor) -> Tensor:
        time.sleep(0.05)
        return right(*inputs)

    _, asked = attend_twice(slow, pytorch)

    assert asked == 1
    assert "the Triton kernel for training is right but not used on cpu: " in caplog.text


def test_the_trial_works_while_a_model_predicts(pytorch: PyTorch) -> None:
    with torch.inference_mode():
        _, asked = attend_twice(right, pytorch)

    assert asked == 0


def test_a_process_that_must_be_deterministic_stays_with_pytorch(
    pytorch: PyTorch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        _, asked = attend_twice(right, pytorch)
    finally:
        torch.use_deterministic_algorithms(False)

    assert asked == 1
    assert caplog.records == []


def test_each_type_has_a_trial_of_its_own(pytorch: PyTorch, caplog: pytest.LogCaptureFixture) -> None:
    for dtype in (*TYPES, *TYPES):
        attend_twice(right, pytorch, dtype)

    assert len(caplog.records) == 2


def test_a_trial_leaves_the_random_numbers_of_training_alone(pytorch: PyTorch) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    attend_twice(right, pytorch)

    assert torch.equal(torch.rand(3), expected)


# -- what mmcv calls -----------------------------------------------------------------------------------------------


def test_mmcv_calls_ours_on_a_gpu_and_pytorchs_on_a_cpu() -> None:
    assert deform_gpu.install() is True
    from mmcv.ops import multi_scale_deform_attn as attention

    assert attention.MultiScaleDeformableAttnFunction is MmcvFunction
    assert attention.multi_scale_deformable_attn_pytorch is deformable_attention


def test_mmcvs_calls_are_served_forward_and_backward(pytorch: PyTorch, caplog: pytest.LogCaptureFixture) -> None:
    """By PyTorch, since Triton has no GPU here."""
    value, shapes, locations, weights = make_inputs()
    inputs = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]

    def through_mmcv(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return MmcvFunction.apply(value, shapes, torch.tensor([0, 48]), locations, weights, 64)

    assert torch.autograd.gradcheck(through_mmcv, inputs, eps=1e-6, atol=1e-5, fast_mode=True)
    assert pytorch.asked > 0
    assert "the Triton kernel for training is not used on cpu: " in caplog.text


def test_locations_are_not_rounded_to_the_type_of_the_value(pytorch: PyTorch) -> None:
    """mmcv's function does; in a level of 134 cells that moves points by up to a quarter of one."""
    random = torch.Generator().manual_seed(3)
    shapes, weights = torch.tensor([[1, 134]]), torch.ones(1, 200, 1, 1, 1)
    value = torch.arange(134.0).remainder(2).view(1, 134, 1, 1)  # a quarter of a cell is a quarter here
    locations = torch.rand(1, 200, 1, 1, 1, 2, generator=random)
    expected = deformable_attention(value, shapes, locations, weights)

    found = MmcvFunction.apply(value.bfloat16(), shapes, None, locations, weights, 64)

    torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0)
    rounded = deformable_attention(value, shapes, locations.bfloat16().float(), weights)
    assert (rounded - expected).abs().max() > 0.2
