"""The fusion layer: image and text look at each other, without ever projecting the image to the layer's width.

Called by encoder.py of this folder. Must not import mmdet.
mmdet's BiMultiHeadAttention projects all cells (17,821 for a picture of 800 x 1066) to 1,024 channels three times.
A score is (Wq x + bq) . k = x . (Wq' k) + bq . k, and a sum of values is Wv (sum of x) + bv: so the short text takes
the products (a caption of 10 tokens: 29 GFLOP become 1) and the result is the same.
Example: `image, text = Fusion(block, torch.float32)(image, text)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worker.detectors.fast.layers import Norm


class Fusion:
    """One `SingleScaleBiAttentionBlock`."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        """Keep what acts on the text in 32 bits: it is small, and its results serve every cell."""
        self._norm_image = Norm(block.layer_norm_v, dtype)
        self._block, self._attention, self._dtype = block, block.attn, dtype

    def __call__(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(images, cells, channels) and (images, tokens, channels) -> the same, each informed by the other."""
        block, attention = self._block, self._attention
        image = self._norm_image(image)
        text = block.layer_norm_l(text)
        keys, offsets = self._fold_keys(text)  # (images, heads * tokens, channels), (images, heads * tokens)
        scores = image @ keys.to(self._dtype).transpose(1, 2)  # (images, cells, heads * tokens)
        # Cells last: a softmax over the few tokens then takes whole vectors of cells, and a tenth of the time.
        scores = scores.transpose(1, 2).contiguous()
        to_text = self._gather(image, scores)
        image = self._scatter(image, scores.add_(offsets[..., None].to(self._dtype)), text)
        return image, text + block.gamma_l * attention.out_l_proj(to_text)

    def _fold_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors whose product with a cell is its score with each head and token."""
        attention = self._attention
        keys = self._split(attention.l_proj(text)) * attention.scale  # (images, heads, tokens, width of a head)
        weight = attention.v_proj.weight.view(attention.num_heads, attention.head_dim, -1)
        offsets = keys @ attention.v_proj.bias.view(attention.num_heads, -1, 1)
        return (keys @ weight).flatten(1, 2), offsets.flatten(1)

    def _gather(self, image: Tensor, scores: Tensor) -> Tensor:
        """What the text takes from the image: softmax over cells, for which the offsets do not matter."""
        attention = self._attention
        shares = scores.softmax(-1)  # (images, heads * tokens, cells)
        seen = (shares @ image).float().unflatten(1, (attention.num_heads, -1))
        weight = attention.values_v_proj.weight.view(attention.num_heads, attention.head_dim, -1)
        values = (seen @ weight.transpose(1, 2)).transpose(1, 2).flatten(2)  # (images, tokens, width)
        return values + attention.values_v_proj.bias

    def _scatter(self, image: Tensor, scores: Tensor, text: Tensor) -> Tensor:
        """The image and what it takes from the text: softmax over tokens."""
        block, attention = self._block, self._attention
        values = self._split(attention.values_l_proj(text))  # (images, heads, tokens, width of a head)
        out = (attention.out_v_proj.weight * block.gamma_v[:, None]).T.view(attention.num_heads, attention.head_dim, -1)
        values = (values @ out).flatten(1, 2).to(self._dtype)  # (images, heads * tokens, channels)
        shares = scores.unflatten(1, (attention.num_heads, -1)).softmax(2).flatten(1, 2)
        bias = (attention.out_v_proj.bias * block.gamma_v).to(self._dtype)
        return torch.baddbmm(image, shares.transpose(1, 2), values).add_(bias)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._attention.num_heads, -1)).transpose(1, 2)
