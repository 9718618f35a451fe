"""The GPU's kernels for training give PyTorch's output and gradients, and compile for the GPUs there are.

Triton's interpreter runs them on a CPU; Triton's compiler needs no GPU.
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
import triton

from tests.unit.triton_builds import build, compiled, interpreted
from worker.detectors.deform_attn import deformable_attention

NAME = "worker.detectors.deform_triton"
SHAPES = ((16, 20), (3, 5), (1, 1))
HEADS, POINTS = 2, 2
CAPABILITIES = [(75, "fp32"), (75, "fp16"), (80, "fp32"), (80, "bf16"), (90, "bf16"), (100, "bf16")]

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        module = interpreted(NAME)
        # The interpreter adds by NumPy what is added by this; by any other function number by number, in minutes.
        patch.setattr(module, "_plus", triton.language.standard._sum_combine)
        yield module


def make_inputs(queries: int = 5, channels: int = 8, images: int = 2, beyond: float = 0.15) -> Inputs:
    """Value, shapes, locations (some outside of the levels) and weights of a random call."""
    random = torch.Generator().manual_seed(5)
    cells = sum(height * width for height, width in SHAPES)
    value = torch.randn(images, cells, HEADS, channels, generator=random)
    locations = torch.rand(images, queries, HEADS, len(SHAPES), POINTS, 2, generator=random)
    weights = torch.rand(images, queries, HEADS, len(SHAPES), POINTS, generator=random)
    return value, torch.tensor(SHAPES), locations * (1 + 2 * beyond) - beyond, weights


def by_pytorch(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    return run(deformable_attention, value, shapes, locations, weights)


def by_kernels(kernels: ModuleType, *inputs: Tensor) -> tuple[Tensor, ...]:
    return run(kernels.FusedAttention.apply, *inputs)


def run(attention, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Output and the gradients of value, locations and weights, for a gradient of the output that is uneven."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    found = attention(inputs[0], shapes, inputs[1], inputs[2])
    grad = torch.arange(found.numel()).view_as(found).cos().to(found.dtype)
    return found.detach(), *torch.autograd.grad(found, inputs, grad)


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], atol: float = 2e-5) -> None:
    """In 32 bits; gradients of locations are up to 20 times as large as the others."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-6)


@pytest.mark.parametrize(("queries", "channels"), [(1, 8), (16, 12), (21, 8)])
def test_output_and_gradients_equal_pytorchs(kernels: ModuleType, queries: int, channels: int) -> None:
    """Queries that fill a block of a program, and do not; channels that are a power of two, and are not."""
    inputs = make_inputs(queries, channels)

    assert_equal(by_kernels(kernels, *inputs), by_pytorch(*inputs))


def test_gradients_equal_differences_of_the_output(kernels: ModuleType) -> None:
    """In 64 bits, without PyTorch's attention as a judge."""
    value, shapes, locations, weights = make_inputs(queries=3, channels=3, images=1)
    inputs = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]

    def attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return kernels.FusedAttention.apply(value, shapes, locations, weights)

    # A step must not cross a line of cells, where the gradient jumps: the seed keeps points that far away.
    assert torch.autograd.gradcheck(attention, inputs, eps=1e-6, atol=1e-5, nondet_tol=1e-12, fast_mode=True)


def test_points_on_and_beyond_the_border(kernels: ModuleType) -> None:
    edges = [-1e9, -1.0, -0.5, 0.0, 0.025, 0.5, 0.975, 1.0, 1.5, 1e9]
    value, shapes, locations, weights = make_inputs(queries=2 * len(edges), beyond=0.0)
    for query, edge in enumerate(edges):
        locations[:, query] = edge
        locations[:, len(edges) + query, ..., 0] = edge  # only one of the two coordinates

    assert_equal(by_kernels(kernels, value, shapes, locations, weights), by_pytorch(value, shapes, locations, weights))


def test_a_query_without_a_point_inside_gives_and_gets_nothing(kernels: ModuleType) -> None:
    value, shapes, locations, weights = make_inputs(queries=2, beyond=0.0)
    locations[:, 1] += 3.0

    found, _, grad_locations, grad_weights = by_kernels(kernels, value, shapes, locations, weights)

    for of_queries in (found, grad_locations, grad_weights):
        assert (of_queries[:, 1] == 0).all()
        assert (of_queries[:, 0] != 0).any()
    alone = by_kernels(kernels, value, shapes, locations[:, :1], weights[:, :1])[1]
    assert (alone != 0).any()
    rest = by_kernels(kernels, value, shapes, locations[:, 1:], weights[:, 1:])[1]
    assert (rest == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_16_bits_are_rounded_once(kernels: ModuleType, dtype: torch.dtype) -> None:
    value, shapes, locations, weights = make_inputs()
    value = value.to(dtype)

    found = by_kernels(kernels, value, shapes, locations, weights)

    expected = run_in_32_bits(value, shapes, locations, weights)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=1e-4, rtol=torch.finfo(ours.dtype).eps)


def run_in_32_bits(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """What the numbers of 16 bits, gradient of the output included, should give."""
    inputs = [tensor.detach().float().requires_grad_() for tensor in (value, locations, weights)]
    found = deformable_attention(inputs[0], shapes, inputs[1], inputs[2])
    grad = torch.arange(found.numel()).view_as(found).cos().to(value.dtype).float()
    return found.detach(), *torch.autograd.grad(found, inputs, grad)


def test_gradients_of_a_value_are_added_in_32_bits(kernels: ModuleType) -> None:
    """In bfloat16 256 + 1 is 256: four hundred queries at one cell would stop there."""
    value = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    locations, weights = torch.full((1, 400, 1, 1, 1, 2), 0.5), torch.ones(1, 400, 1, 1, 1)

    found = kernels.FusedAttention.apply(value, torch.tensor([[1, 1]]), locations, weights)
    found.backward(torch.ones_like(found))

    assert value.grad.item() == 400.0


def test_the_order_of_numbers_in_memory_does_not_matter(kernels: ModuleType) -> None:
    value, shapes, locations, weights = make_inputs(queries=5)
    apart = (value.mT.contiguous().mT, shapes.mT.contiguous().mT, locations.mT.contiguous().mT, weights)

    assert not any(tensor.is_contiguous() for tensor in apart[:3])
    assert_equal(by_kernels(kernels, *apart), by_pytorch(value, shapes, locations, weights))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # of NumPy, in the interpreter
def test_a_point_that_is_no_number_reads_inside_the_value(kernels: ModuleType) -> None:
    """And says so, for training to stop; reading outside would end the process."""
    value, shapes, locations, weights = make_inputs(queries=2)
    locations[:, 1] = torch.nan

    found, grad_value, _, _ = by_kernels(kernels, value, shapes, locations, weights)

    assert found[:, 1].isnan().all()
    assert found[:, 0].isfinite().all()
    assert grad_value.isfinite().all()


def test_no_queries_are_no_rows_and_no_gradients(kernels: ModuleType) -> None:
    found, grad_value, *_ = by_kernels(kernels, *make_inputs(queries=0))

    assert found.shape == (2, 0, HEADS * 8)
    assert (grad_value == 0).all()


@pytest.mark.parametrize(("capability", "dtype"), CAPABILITIES)
@pytest.mark.parametrize("name", ["_forward", "_backward"])
def test_the_compiler_takes_what_the_interpreter_takes(
    capability: int, dtype: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = compiled(NAME)
    sizes = {"HEADS": 8, "LEVELS": 4, "POINTS": 4, "CHANNELS": 32, "LANES": 32, "QUERIES": module.QUERIES_A_PROGRAM}
    types = dict.fromkeys(("value", "found", "grad_found"), f"*{dtype}") | {"shapes": "*i64"}
    types |= dict.fromkeys(("locations", "weights", "grad_value", "grad_locations", "grad_weights"), "*fp32")

    built = build(getattr(module, name), capability, types, sizes)

    assert built.asm["cubin"]
