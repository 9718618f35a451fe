"""Matrix products and norms of the fast path: weights in one type, activations fused where the library can.

Called by the other modules of this folder. Must not import mmdet or anything else of ours: torch only.
Matrix products run in the type that their weights were given; sums, norms and positions decide for themselves.
Example: `up = Dense.of(ffn.layers[0][0], torch.bfloat16, "relu")`, then `up(rows)`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["none", "relu", "gelu"]

#: Bytes of one channel in a block of a row-wise chain, so that its widest tensor (2,048 channels) stays in the cache.
#: Measured with 17,821 rows on two Sapphire Rapids cores in 16 bits: 512 rows 25 ms, 2,048 17, 4,096 15, all 34 ms.
#: From 32 MiB on glibc also gives memory back after each product: 4,096 rows of 32 bits, 350,000 page faults an image.
BLOCK_BYTES = 8192
GPU_BLOCK_BYTES = 32 * BLOCK_BYTES  #: not measured: enough rows to fill a GPU; half a GB in its widest tensor

_ACTIVATIONS = {"none": lambda x: x, "relu": functional.relu_, "gelu": functional.gelu}


def block_rows(x: Tensor) -> int:
    """How many rows of this tensor's type one block takes on its device."""
    return (BLOCK_BYTES if x.device.type == "cpu" else GPU_BLOCK_BYTES) // x.element_size()


class Dense:
    """`activation(x @ weight.T + bias)`; the result has the type that the weight was given."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: Activation = "none"):
        """Convert once; `weight` is (out, in)."""
        self._dtype, self._activation = dtype, activation
        self._weight = weight.detach().to(dtype).contiguous()
        self._bias = None if bias is None else bias.detach().to(dtype)
        # oneDNN reads a weight fastest in an order of its own, and applies the activation while a tile of the product
        # is in registers. PyTorch reaches both through the ops that its own compiler emits; without them (GPU, other
        # builds) the same follows in two steps.
        self._packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, activation: Activation = "none") -> Dense:
        """The weights of a module."""
        return cls(linear.weight, linear.bias, dtype, activation)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) of any type -> (..., out)."""
        x = x.to(self._dtype)
        if self._packed:
            algorithm = "none" if self._activation == "gelu" else ""  # "none": the exact GELU, not the one with tanh
            product = torch.ops.mkldnn._linear_pointwise
            return product(x, self._weight, self._bias, self._activation, [], algorithm)
        return _ACTIVATIONS[self._activation](functional.linear(x, self._weight, self._bias))


class Norm:
    """LayerNorm over the last axis; statistics are kept in 32 bits, the result has the type of its input."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype):
        """Convert once."""
        self.weight, self.bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        self._eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """(..., channels), of the type that was given."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self._eps)


class FeedForward:
    """Two matrix products with an activation between them; give it `block_rows` at a time."""

    def __init__(self, up: nn.Linear, down: nn.Linear, dtype: torch.dtype, activation: Activation):
        """Convert once."""
        self._up, self._down = Dense.of(up, dtype, activation), Dense.of(down, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., channels) -> the same, without the residual."""
        return self._down(self._up(x))
