"""Our deformable attention equals mmcv's, and every op that mmcv-lite lacks says so."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from worker.detectors import deform_attn

SHAPES = [(16, 20), (8, 10), (4, 5)]


@pytest.fixture(scope="module")
def attention():
    deform_attn.install()
    from mmcv.ops import multi_scale_deform_attn

    return multi_scale_deform_attn


def make_inputs(dtype=torch.float64, queries=40, heads=2, channels=8, points=4):
    """Value, shapes, locations (a fifth of them outside the image) and weights of a random attention call."""
    random = torch.Generator().manual_seed(7)
    shapes = torch.tensor(SHAPES)
    cells = int(shapes.prod(1).sum())
    value = torch.randn(2, cells, heads, channels, generator=random, dtype=dtype)
    locations = torch.rand(2, queries, heads, len(SHAPES), points, 2, generator=random, dtype=dtype) * 1.25 - 0.125
    weights = torch.rand(2, queries, heads, len(SHAPES), points, generator=random, dtype=dtype)
    return value, shapes, locations, weights


def gradients(function, value, shapes, locations, weights):
    inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(inputs[0], shapes, inputs[1], inputs[2])
    return torch.autograd.grad((output * torch.arange(output.numel()).view_as(output).cos()).sum(), inputs)


def test_output_equals_mmcvs_own(attention):
    value, shapes, locations, weights = make_inputs(torch.float32)

    ours = deform_attn.deformable_attention(value, shapes, locations, weights)

    theirs = attention.multi_scale_deformable_attn_grid_sample(value, shapes, locations, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_gradients_equal_mmcvs_own(attention):
    inputs = make_inputs()

    ours = gradients(deform_attn.deformable_attention, *inputs)

    theirs = gradients(attention.multi_scale_deformable_attn_grid_sample, *inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("edge", [0.0, 1.0, -0.5, 1.5])
def test_points_on_and_beyond_the_border_equal_mmcvs_own(attention, edge):
    value, shapes, locations, weights = make_inputs()
    locations = torch.full_like(locations, edge)

    ours = deform_attn.deformable_attention(value, shapes, locations, weights)

    theirs = attention.multi_scale_deformable_attn_grid_sample(value, shapes, locations, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)


class CompiledCalls(torch.autograd.Function):
    """As mmcv calls its extension on CUDA; where deform_gpu.py is installed, mmcv's own function is gone."""

    @staticmethod
    def forward(ctx, value, shapes, locations, weights):
        ctx.save_for_backward(value, shapes, locations, weights)
        return sys.modules["mmcv._ext"].ms_deform_attn_forward(value, shapes, None, locations, weights, im2col_step=64)

    @staticmethod
    def backward(ctx, grad_output):
        value, shapes, locations, weights = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]
        backward = sys.modules["mmcv._ext"].ms_deform_attn_backward
        backward(value, shapes, None, locations, weights, grad_output.contiguous(), *grads, im2col_step=64)
        return grads[0], None, grads[1], grads[2]


def test_compiled_calls_of_mmcv_are_served_forward_and_backward(attention):
    inputs = make_inputs()

    ours = gradients(CompiledCalls.apply, *inputs)

    theirs = gradients(attention.multi_scale_deformable_attn_grid_sample, *inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def test_bfloat16_values_keep_their_dtype(attention):
    value, shapes, locations, weights = make_inputs(torch.float32)

    ours = deform_attn.deformable_attention(value.bfloat16(), shapes, locations, weights)

    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(
        ours.float(), deform_attn.deformable_attention(value, shapes, locations, weights), atol=0.1, rtol=0.1
    )


def test_mmcvs_module_uses_our_function_on_the_cpu(attention):
    assert attention.multi_scale_deformable_attn_pytorch is deform_attn.deformable_attention


def test_installing_again_changes_nothing(attention):
    extension = sys.modules["mmcv._ext"]
    kept = attention.multi_scale_deformable_attn_grid_sample

    assert deform_attn.install() is True

    assert sys.modules["mmcv._ext"] is extension
    assert attention.multi_scale_deformable_attn_grid_sample is kept


def test_a_missing_op_names_itself_and_the_remedy(attention):
    from mmcv.ops import nms

    with pytest.raises(deform_attn.OpNotCompiledError) as caught:
        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0.5]), iou_threshold=0.5)

    assert "'nms'" in str(caught.value)
    assert "pip install groundcrew[full-mmcv]" in str(caught.value)


def test_the_extension_can_be_looked_up(attention):
    assert importlib.util.find_spec("mmcv._ext") is not None


def test_a_full_mmcv_is_left_alone(tmp_path):
    """A process of its own, in which an mmcv with an extension stands before the installed one."""
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_ext.py").write_text("compiled = True")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from worker.detectors import deform_attn\n"
        "assert deform_attn.install() is False\n"
        "import mmcv._ext\n"
        "assert mmcv._ext.compiled\n"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
