"""The decoder: chooses the cells that look most like something named, and refines a box for each.

Called by model.py of this folder. Must not import backend or groundcrew.
Boxes, scores and sums stay in 32 bits; only matrix products run in the given type. mmdet computes boxes for all cells
and scores of all layers; only those that count are computed here.
Example: `logits, boxes = Decoder(model, torch.bfloat16)(memory, text, mask, geometry, grid)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.detectors.fast.geometry import Geometry
from worker.detectors.fast.layers import Dense, FeedForward, Norm
from worker.detectors.fast.sampling import DeformableWeights, SamplingGrid
from worker.detectors.stack import GroundingDINO, coordinate_to_encoding, inverse_sigmoid

DECODER_EPS = 1e-3  #: of `inverse_sigmoid` between layers, as in mmdet's DinoTransformerDecoder; its head has 1e-5


class Attention:
    """One `nn.MultiheadAttention` and the sum with its query."""

    def __init__(self, attention: nn.MultiheadAttention, dtype: torch.dtype):
        """Take over the weights."""
        parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
        self._query, self._key, self._value = (Dense(weight, bias, dtype) for weight, bias in parts)
        self._output, self._heads = Dense.of(attention.out_proj, dtype), attention.num_heads

    def __call__(self, query: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(images, queries, channels) -> the same; key and value are (images, keys, channels)."""
        projected = (self._query(query + position), self._key(key), self._value(value))
        heads = [one.unflatten(-1, (self._heads, -1)).transpose(1, 2) for one in projected]
        found = functional.scaled_dot_product_attention(*heads)
        return query + self._output(found.transpose(1, 2).flatten(2))


class DecoderLayer:
    """One `GroundingDinoTransformerDecoderLayer`."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        """Take over the weights."""
        self._among_queries = Attention(layer.self_attn.attn, dtype)
        self._to_text = Attention(layer.cross_attn_text.attn, dtype)
        self.to_image = DeformableWeights(layer.cross_attn, dtype)
        self._norms = [Norm(norm, torch.float32) for norm in layer.norms]
        self._forward = FeedForward(layer.ffn.layers[0][0], layer.ffn.layers[1], dtype, "relu")

    def __call__(
        self, query: Tensor, position: Tensor, boxes: Tensor, memory: Tensor, text: Tensor, grid: SamplingGrid
    ):
        """(images, queries, channels) float32 -> the same; boxes are fractions, centre and size."""
        first, second, third, fourth = self._norms
        placed = query + position
        query = first(self._among_queries(query, position, placed, query))
        query = second(self._to_text(query, position, text, text))
        query = third(query + self._look(query + position, boxes, memory, grid))
        return fourth(query + self._forward(query))

    def _look(self, query: Tensor, boxes: Tensor, memory: Tensor, grid: SamplingGrid) -> Tensor:
        offsets, weights = self.to_image.look(query)
        half_a_point = boxes[..., 2:, None] * (0.5 / self.to_image.points)  # (images, queries, 2, 1)
        places = (offsets * half_a_point).add_(boxes[..., :2, None])  # fractions of the image
        table = grid.fill(self.to_image.value(memory))
        return self.to_image.output(grid.sample(table, places.mul_(grid.last).sub_(0.5), weights))


class Decoder:
    """Choice of queries, all layers, and the heads of the last one."""

    def __init__(self, model: GroundingDINO, dtype: torch.dtype):
        """Take over the weights of everything behind the encoder."""
        self._model, self._dtype = model, dtype
        self._transform, self._norm = Dense.of(model.memory_trans_fc, dtype), Norm(model.memory_trans_norm, dtype)
        self.layers = [DecoderLayer(layer, dtype) for layer in model.decoder.layers]

    def __call__(
        self, memory: Tensor, text: Tensor, text_mask: Tensor, geometry: Geometry, grid: SamplingGrid
    ) -> tuple[Tensor, Tensor]:
        """(images, queries, text length) logits and (images, queries, 4) boxes: fractions, centre and size.

        Args:
            memory: (images, cells, channels).
            text: (images, tokens, channels) float32.
            text_mask: (images, tokens) True for tokens.
            geometry: of this size of image.
            grid: for the heads and points of the decoder.
        """
        decoder, head = self._model.decoder, self._model.bbox_head
        boxes = self._choose(memory, text, text_mask, geometry)
        query = self._model.query_embedding.weight.expand(len(memory), -1, -1)
        for number, layer in enumerate(self.layers):
            if number:
                change = head.reg_branches[number - 1](query)
                boxes = (change + inverse_sigmoid(boxes, eps=DECODER_EPS)).sigmoid()
            position = decoder.ref_point_head(coordinate_to_encoding(boxes))
            query = layer(query, position, boxes, memory, text, grid)
        found = decoder.norm(query)
        logits = head.cls_branches[len(self.layers) - 1](found, text, text_mask)
        return logits, (head.reg_branches[len(self.layers) - 1](found) + inverse_sigmoid(boxes)).sigmoid()

    def _choose(self, memory: Tensor, text: Tensor, text_mask: Tensor, geometry: Geometry) -> Tensor:
        """(images, queries, 4) boxes of the cells with the best scores."""
        head, last = self._model.bbox_head, len(self.layers)
        cells = memory.index_fill(1, geometry.invalid, 0)
        cells = self._norm(self._transform(cells))
        # In 32 bits: in 16 many cells would tie.
        scores = head.cls_branches[last](cells.float(), text, text_mask)[..., : text.shape[1]].amax(-1)
        chosen = scores.topk(self._model.num_queries, dim=1).indices  # (images, queries)
        picked = cells.gather(1, chosen[..., None].expand(-1, -1, cells.shape[-1])).float()
        return (head.reg_branches[last](picked) + geometry.proposals[chosen]).sigmoid()
