"""The neck: cells of the backbone's levels become cells of all levels, with the channels of the encoder.

Called by swin.py of this folder. Must not import backend or groundcrew.
A 1 x 1 convolution is a matrix product of rows; rows of channels are also what PyTorch calls channels-last.
Example: `cells, shapes = Neck(model.neck, torch.float32)([(cells, 100, 134)])`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detectors.fast.geometry import Shapes
from worker.detectors.fast.layers import Dense

Level = tuple[Tensor, int, int]  #: (cells, channels), height, width


class Neck:
    """`ChannelMapper`: a level for each one of the backbone, more of them by strides of two."""

    def __init__(self, neck: nn.Module, dtype: torch.dtype):
        """Take over the weights."""
        self._dense = [Dense(one.conv.weight.flatten(1), one.conv.bias, dtype) for one in neck.convs]
        more = list(neck.extra_convs or ())
        self._convs = [_Convolution(one.conv, dtype) for one in more]
        self._norms = [_GroupNorm(one.gn, dtype) for one in [*neck.convs, *more]]

    def __call__(self, levels: list[Level]) -> tuple[Tensor, Shapes]:
        """Levels of the backbone -> (cells of all levels, channels) and the sizes of all levels."""
        norms = iter(self._norms)
        maps = [
            next(norms)(_as_map(dense(cells), height, width))
            for dense, (cells, height, width) in zip(self._dense, levels, strict=True)
        ]
        last = _as_map(*levels[-1])
        for convolution in self._convs:
            last = next(norms)(convolution(last))
            maps.append(last)
        rows = [level.permute(0, 2, 3, 1).flatten(0, 2) for level in maps]
        return torch.cat(rows), tuple((level.shape[2], level.shape[3]) for level in maps)


class _Convolution:
    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        self._weight = conv.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self._bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self._stride, self._padding = conv.stride, conv.padding

    def __call__(self, level: Tensor) -> Tensor:
        return functional.conv2d(level, self._weight, self._bias, self._stride, self._padding)


class _GroupNorm:
    def __init__(self, norm: nn.GroupNorm, dtype: torch.dtype):
        self._groups, self._eps = norm.num_groups, norm.eps
        self._weight, self._bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)

    def __call__(self, level: Tensor) -> Tensor:
        return functional.group_norm(level, self._groups, self._weight, self._bias, self._eps)


def _as_map(cells: Tensor, height: int, width: int) -> Tensor:
    """(cells, channels) -> (1, channels, height, width), in the memory as it is."""
    return cells.view(1, height, width, -1).permute(0, 3, 1, 2)
