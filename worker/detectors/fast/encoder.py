"""The encoder: six times fusion with the text, deformable attention among cells, and a feed-forward network.

Called by model.py of this folder. Must not import backend or groundcrew.
Cells are worked on in blocks whose widest tensors stay in the cache; the text is short and goes through mmdet's own
layers in 32 bits.
Example: `memory, text = encoder(features, caption, places)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.detectors.fast.fusion import Fusion
from worker.detectors.fast.geometry import Geometry
from worker.detectors.fast.layers import FeedForward, Norm, block_rows
from worker.detectors.fast.sampling import DeformableWeights, SamplingGrid
from worker.detectors.stack import get_text_sine_pos_embed

TEXT_POSITION_FEATURES = 256  #: as in mmdet's GroundingDinoTransformerEncoder


@dataclass(frozen=True, eq=False)
class Places:
    """Where the cells of an image are: the geometry in the types and orders that the encoder reads."""

    position: Tensor  # (cells, channels) of the type of the matrix products
    pixels: Tensor  # (cells, 2, heads * levels * points) float32: where each cell's points would be without offsets
    grid: SamplingGrid

    @classmethod
    def of(cls, geometry: Geometry, weights: DeformableWeights, dtype: torch.dtype) -> Places:
        """Spread the centres over heads and points, so that one addition of whole rows places all points."""
        centre, heads, points = geometry.centre_px, weights.heads, weights.points
        cells, _, levels = centre.shape
        pixels = centre[:, :, None, :, None].expand(cells, 2, heads, levels, points).reshape(cells, 2, -1)
        grid = SamplingGrid.of(geometry.shapes, heads, points, centre.device)
        return cls(geometry.position.to(dtype), pixels, grid)


class EncoderLayer:
    """One `DeformableDetrTransformerEncoderLayer`."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        """Take over the weights."""
        self.attention = DeformableWeights(layer.self_attn, dtype)
        self._norms = [Norm(norm, dtype) for norm in layer.norms]
        self._forward = FeedForward(layer.ffn.layers[0][0], layer.ffn.layers[1], dtype, "relu")

    def __call__(self, image: Tensor, places: Places) -> Tensor:
        """(images, cells, channels) -> the same."""
        table = places.grid.fill(self.attention.value(image))
        found = torch.empty_like(image)
        for images, rows in cut_into_blocks(*image.shape[:2], block_rows(image)):
            found[images, rows] = self._look(image[images, rows], table[images], places, rows)
        return found

    def _look(self, cells: Tensor, table: Tensor, places: Places, rows: slice) -> Tensor:
        offsets, weights = self.attention.look(cells + places.position[rows])
        sampled = places.grid.sample(table, offsets.add_(places.pixels[rows]), weights)
        cells = self._norms[0](self.attention.output(sampled).add_(cells))
        return self._norms[1](self._forward(cells).add_(cells))


def cut_into_blocks(images: int, cells: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Images and cells of each block: part of one image, or, where images are small, several whole ones."""
    if cells >= rows:
        for image in range(images):
            for first in range(0, cells, rows):
                yield slice(image, image + 1), slice(first, first + rows)
        return
    together = max(1, rows // cells)
    for image in range(0, images, together):
        yield slice(image, image + together), slice(None)


class Encoder:
    """All layers."""

    def __init__(self, encoder: nn.Module, dtype: torch.dtype):
        """Take over the weights of mmdet's `GroundingDinoTransformerEncoder`."""
        self._fusions = [Fusion(block, dtype) for block in encoder.fusion_layers]
        self._text_layers = encoder.text_layers
        self.layers = [EncoderLayer(layer, dtype) for layer in encoder.layers]

    def __call__(self, image: Tensor, text: dict[str, Tensor], places: Places) -> tuple[Tensor, Tensor]:
        """Memory (images, cells, channels), of the type of `image`, and (images, tokens, channels), float32.

        Args:
            image: (images, cells, channels) features of all levels.
            text: as `Caption.expand` gives it.
            places: of this size of image.
        """
        tokens, forbidden = text["embedded"], ~text["masks"]
        position = get_text_sine_pos_embed(text["position_ids"][..., None], TEXT_POSITION_FEATURES, exchange_xy=False)
        for fuse, text_layer, layer in zip(self._fusions, self._text_layers, self.layers, strict=True):
            image, tokens = fuse(image, tokens)
            heads = text_layer.self_attn_cfg.num_heads
            mask = forbidden.repeat(heads, 1, 1)
            tokens = text_layer(query=tokens, query_pos=position, attn_mask=mask, key_padding_mask=None)
            image = layer(image, places)
        return image, tokens
