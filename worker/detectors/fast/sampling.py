"""Deformable attention of the fast path: bilinear samples as one weighted `embedding_bag` over padded levels.

Called by encoder.py and decoder.py of this folder. Must not import mmdet.
Every level gets a border of zero cells, and positions are clamped to it: so no point needs a mask, and the four
corners of a point are one number plus 0, 1, a row, a row and 1. Heads of one cell are neighbouring rows of the table.
Example: `grid.sample(grid.fill(values), pixels, weights)`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detectors.fast import gpu
from worker.detectors.fast.geometry import Shapes
from worker.detectors.fast.layers import Dense


@dataclass(frozen=True, eq=False)
class SamplingGrid:
    """Where the cells of all levels lie, for one number of heads and points."""

    shapes: Shapes
    heads: int
    last: Tensor  # (2, heads * levels * points) width and height: where the zero border begins
    row_step: Tensor  # (heads * levels * points,) rows of the table from a cell to the one below
    first: Tensor  # (heads * levels * points,) row of the table of cell (0, 0)
    steps: Tensor  # (heads, 4, levels * points) from the upper left corner of a point to its four corners, in rows

    @classmethod
    def of(cls, shapes: Shapes, heads: int, points: int, device: torch.device) -> SamplingGrid:
        """For the points of one query in the order (head, level, point)."""
        sizes = torch.tensor(shapes, device=device)
        height, width = sizes.unbind(1)  # (levels,) each
        padded = (height + 2) * (width + 2)
        start = padded.cumsum(0) - padded + (width + 2) + 1

        def spread(of_levels: Tensor) -> Tensor:
            return of_levels.repeat_interleave(points, -1).repeat(1, heads).view(-1)

        head = torch.arange(heads, device=device).repeat_interleave(len(shapes) * points)
        row_step = spread(width + 2) * heads
        steps = torch.stack((torch.zeros_like(row_step), torch.full_like(row_step, heads), row_step, row_step + heads))
        return cls(
            shapes=shapes,
            heads=heads,
            last=torch.stack((spread(width), spread(height))).float(),
            row_step=row_step.float(),
            first=(spread(start) * heads + head).float(),
            steps=steps.view(4, heads, -1).transpose(0, 1).contiguous().int(),
        )

    def fill(self, values: Tensor) -> Tensor:
        """(images, cells, channels) -> the table (images, padded cells * heads, channels of a head)."""
        images, _, channels = values.shape
        padded = [(height + 2) * (width + 2) for height, width in self.shapes]
        beyond = self.shapes[-1][1] + 4  # the corners of a point below the last level
        table = values.new_zeros(images, sum(padded) + beyond, channels)
        start, first = 0, 0
        for (height, width), size in zip(self.shapes, padded, strict=True):
            inside = table[:, start : start + size].view(images, height + 2, width + 2, channels)[:, 1:-1, 1:-1]
            inside.copy_(values[:, first : first + height * width].view(images, height, width, channels))
            start, first = start + size, first + height * width
        return table.view(images, -1, channels // self.heads)

    def sample(self, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of bilinear samples.

        Args:
            table: (images, rows, channels of a head), from `fill`.
            pixels: (images, queries, 2, heads * levels * points) x and y in cells of the level; overwritten.
            weights: (images, queries, heads, levels * points) attention weights, float32.

        Returns:
            (images, queries, heads * channels of a head), of the type of the table.
        """
        if table.is_cuda:
            return gpu.sample(self, table, pixels, weights)
        kernel = _find_kernel() if table.dtype == torch.bfloat16 and table.device.type == "cpu" else None
        if kernel:
            places = (self.last, self.row_step, self.first)
            found = [kernel.sample(*image, *places) for image in zip(table, pixels, weights, strict=True)]
            return found[0][None] if len(found) == 1 else torch.stack(found)
        return self.sample_by_bags(table, pixels, weights)

    def sample_by_bags(self, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        """As `sample`, by PyTorch's own operations, on any device."""
        images, queries = pixels.shape[:2]
        pixels = torch.minimum(pixels.clamp_(min=-1), self.last, out=pixels)
        low = pixels.floor()
        fraction = pixels.sub_(low).view(images, queries, 2, self.heads, -1)
        row = torch.addcmul(self.first, low[:, :, 1], self.row_step).add_(low[:, :, 0], alpha=self.heads)
        # Exact in float32: there are far fewer than 2 ** 24 rows an image.
        row = row.int().view(images, queries, self.heads, 1, -1)
        if images > 1:
            row += (torch.arange(images, device=row.device, dtype=torch.int32) * table.shape[1]).view(-1, 1, 1, 1, 1)
        rows = row + self.steps  # (images, queries, heads, 4, levels * points)
        bags = functional.embedding_bag(
            rows.view(images * queries * self.heads, -1),
            table.view(-1, table.shape[-1]),
            per_sample_weights=_corner_weights(fraction, weights, table.dtype).view(images * queries * self.heads, -1),
            mode="sum",
        )
        return bags.view(images, queries, -1)


@functools.cache
def _find_kernel() -> ModuleType | None:
    """The module kernel.py, which needs Numba: optional, because `embedding_bag` gives the same sums."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("worker.detectors.fast.kernel")


def _corner_weights(fraction: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """(images, queries, heads, 4, levels * points): upper left, upper right, lower left, lower right."""
    right, lower = fraction[:, :, 0], fraction[:, :, 1]  # (images, queries, heads, levels * points)
    corners = weights.new_empty(*weights.shape[:3], 4, weights.shape[3], dtype=dtype)
    on_right = weights * right
    on_left = weights - on_right
    for column, part in enumerate((on_left, on_right)):
        below = part * lower
        corners[:, :, :, 2 + column] = below
        corners[:, :, :, column] = part.sub_(below)
    return corners


class DeformableWeights:
    """The four matrices of one `MultiScaleDeformableAttention`; offsets come out as all x, then all y."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype):
        """Take over the weights of mmcv's module."""
        self.heads, self.points = attention.num_heads, attention.num_points
        offsets = attention.sampling_offsets
        order = torch.arange(offsets.out_features).view(-1, 2).T.flatten().to(offsets.weight.device)
        weight = torch.cat((offsets.weight[order], attention.attention_weights.weight))
        bias = torch.cat((offsets.bias[order], attention.attention_weights.bias))
        self._query = Dense(weight, bias, dtype)
        self.value, self.output = Dense.of(attention.value_proj, dtype), Dense.of(attention.output_proj, dtype)

    def look(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (images, queries, 2, heads * levels * points) and weights (images, queries, heads, ...), float32."""
        found = self._query(query).float()
        places = found.shape[-1] // 3
        offsets = found[..., : 2 * places].unflatten(-1, (2, places))
        return offsets, found[..., 2 * places :].unflatten(-1, (self.heads, -1)).softmax(-1)
