"""The Swin backbone and the neck: cells stay rows of channels, windows are gathered by number.

Called by model.py of this folder. Must not import backend or groundcrew.
mmdet pads, rolls, cuts windows and undoes all of that with a copy for each step, and computes masks for every image.
Here one `index_select` makes the windows and one undoes them; numbers and masks depend on the size only.
Example: `cells, shapes = Swin(model.backbone, model.neck, torch.bfloat16)(pixels)`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detectors.fast.geometry import Shapes
from worker.detectors.fast.layers import Dense, FeedForward, Norm, block_rows
from worker.detectors.fast.neck import Level, Neck

SIZES_KEPT = 16  #: stages times sizes of images whose windows are remembered
FORBIDDEN = -100.0  #: what mmdet adds to scores between parts of a window that do not touch in the image


@dataclass(frozen=True, eq=False)
class Windows:
    """How the cells of one level are cut into windows."""

    cells: Tensor  # (windows * window cells,) number of the cell at each place; 0 in the padding
    padding: Tensor  # (P,) places that show no cell
    places: Tensor  # (cells,) where each cell stands
    apart: Tensor  # (K, 1, window cells, window cells) for the last K windows: True where two places do not touch

    @classmethod
    def of(cls, height: int, width: int, side: int, shift: int, device: torch.device) -> Windows:
        """Padded to whole windows at the right and below, then rolled by `shift` to the upper left."""
        rows, columns = -(-height // side) * side, -(-width // side) * side
        number = torch.full((rows, columns), -1, device=device)
        number[:height, :width] = torch.arange(height * width, device=device).view(height, width)
        order = _cut(number.roll((-shift, -shift), (0, 1)), side)
        part = _cut(_parts(rows, side, shift, device)[:, None] * 3 + _parts(columns, side, shift, device), side)
        apart = part[:, None, None, :] != part[:, None, :, None]
        mixed = apart.flatten(1).any(1)  # windows with more than one part: those at the right and lower edge
        order = torch.cat((order[~mixed], order[mixed])).flatten()
        places = torch.empty(height * width, dtype=torch.long, device=device)
        shown = order >= 0
        places[order[shown]] = shown.nonzero()[:, 0]
        return cls(order.clamp(min=0), (~shown).nonzero()[:, 0], places, apart[mixed])


def _cut(level: Tensor, side: int) -> Tensor:
    """(rows, columns) -> (windows, side * side)."""
    rows, columns = level.shape
    return level.view(rows // side, side, columns // side, side).transpose(1, 2).reshape(-1, side * side)


def _parts(length: int, side: int, shift: int, device: torch.device) -> Tensor:
    """0, 1 or 2 for each place along one axis: before the last window, in it, and what was rolled round."""
    place = torch.arange(length, device=device)
    return (place >= length - side).long() + (place >= length - shift).long() if shift else torch.zeros_like(place)


class WindowAttention:
    """One `ShiftWindowMSA`, without the residual."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype):
        """Take over the weights; the bias of relative positions is read out once."""
        inner = attention.w_msa
        self.side, self.shift = attention.window_size, attention.shift_size
        self._heads, self._scale = inner.num_heads, inner.scale
        table = inner.relative_position_bias_table.detach()[inner.relative_position_index.view(-1)]
        places = self.side**2
        self._bias = table.view(places, places, -1).permute(2, 0, 1).to(dtype).contiguous()  # (heads, places, places)
        self._mixed, self._output = Dense.of(inner.qkv, dtype), Dense.of(inner.proj, dtype)

    def __call__(self, cells: Tensor, windows: Windows) -> Tensor:
        """(cells, channels) -> the same."""
        channels = cells.shape[1]
        cut = cells.index_select(0, windows.cells).index_fill_(0, windows.padding, 0)
        mixed = self._mixed(cut).view(-1, self.side**2, 3, self._heads, channels // self._heads).permute(2, 0, 3, 1, 4)
        whole = mixed.shape[1] - len(windows.apart)
        found = [self._attend(mixed[:, :whole], self._bias[None])]
        if len(windows.apart):
            found.append(self._attend(mixed[:, whole:], self._bias.masked_fill(windows.apart, FORBIDDEN)))
        return self._output(torch.cat(found).view(-1, channels)).index_select(0, windows.places)

    def _attend(self, mixed: Tensor, bias: Tensor) -> Tensor:
        """(3, windows, heads, places, width of a head) -> (windows, places, channels)."""
        found = functional.scaled_dot_product_attention(*mixed, bias, scale=self._scale)
        return found.transpose(1, 2).flatten(2)


class SwinBlock:
    """One `SwinBlock` of mmdet."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        """Take over the weights."""
        self._norms = Norm(block.norm1, dtype), Norm(block.norm2, dtype)
        self.attention = WindowAttention(block.attn, dtype)
        self._forward = FeedForward(block.ffn.layers[0][0], block.ffn.layers[1], dtype, "gelu")

    def __call__(self, cells: Tensor, windows: Windows) -> Tensor:
        """(cells, channels), changed in place."""
        cells += self.attention(self._norms[0](cells), windows)
        for part in cells.split(block_rows(cells)):
            part += self._forward(self._norms[1](part))
        return cells


class Merging:
    """One `PatchMerging`: four cells become one with twice the channels."""

    def __init__(self, merging: nn.Module, dtype: torch.dtype):
        """Reorder weights, so that channels of one cell stay neighbours (mmdet: the four cells of one channel)."""
        order = torch.arange(merging.reduction.in_features).view(-1, 4).T.flatten().to(merging.norm.weight.device)
        self._norm = Norm(merging.norm, dtype)
        self._norm.weight, self._norm.bias = self._norm.weight[order], self._norm.bias[order]
        self._reduce = Dense(merging.reduction.weight[:, order], merging.reduction.bias, dtype)

    def __call__(self, cells: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        """(height * width, channels) -> cells of the next level and its size."""
        level = functional.pad(cells.view(height, width, -1), (0, 0, 0, width % 2, 0, height % 2))
        height, width = (height + 1) // 2, (width + 1) // 2
        four = level.view(height, 2, width, 2, -1).transpose(1, 2).reshape(height * width, -1)
        return self._reduce(self._norm(four)), height, width


class Swin:
    """`SwinTransformer` and `ChannelMapper`: from pixels to the cells of all levels."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, dtype: torch.dtype):
        """Take over the weights; see `model.can_speed_up` for what they must be."""
        embed = backbone.patch_embed
        self._dtype, self._side = dtype, embed.projection.kernel_size[0]
        self._embed = Dense(embed.projection.weight.flatten(1), embed.projection.bias, dtype)
        self._embed_norm = None if embed.norm is None else Norm(embed.norm, dtype)
        self._stages = [[SwinBlock(block, dtype) for block in stage.blocks] for stage in backbone.stages]
        self._merges = [stage.downsample and Merging(stage.downsample, dtype) for stage in backbone.stages]
        self._norms = {level: Norm(getattr(backbone, f"norm{level}"), dtype) for level in backbone.out_indices}
        self._neck = Neck(neck, dtype)
        self._windows = functools.lru_cache(SIZES_KEPT)(Windows.of)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Shapes]:
        """(images, 3, height, width) normalised -> (images, cells, channels) and the sizes of the levels."""
        found = [self._neck(self._look(image)) for image in pixels]  # one image fills a processor, and a cache
        return torch.stack([cells for cells, _ in found]), found[0][1]

    def _look(self, image: Tensor) -> list[Level]:
        cells, height, width = self._cut(image)
        levels = []
        for number, (stage, merge) in enumerate(zip(self._stages, self._merges, strict=True)):
            for block in stage:
                attention = block.attention
                windows = self._windows(height, width, attention.side, attention.shift, cells.device)
                cells = block(cells, windows)
            if number in self._norms:
                levels.append((self._norms[number](cells), height, width))
            if merge:
                cells, height, width = merge(cells, height, width)
        return levels

    def _cut(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Patches of 4 x 4 pixels as cells; what is missing at the right and below is zero."""
        side = self._side
        image = functional.pad(image, (0, -image.shape[2] % side, 0, -image.shape[1] % side)).to(self._dtype)
        height, width = image.shape[1] // side, image.shape[2] // side
        patches = image.view(-1, height, side, width, side).permute(1, 3, 0, 2, 4).reshape(height * width, -1)
        cells = self._embed(patches)
        return cells if self._embed_norm is None else self._embed_norm(cells), height, width
