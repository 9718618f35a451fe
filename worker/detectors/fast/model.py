"""The fast path: mmdet's `GroundingDINO`, computed with fewer operations and copies, in 32 or 16 bits.

Called by `mmgdino.py` of the parent folder. Must not import backend or groundcrew.
It holds copies of the weights in its own type and order: after a change of the model's weights build a new one.
Example: `logits, boxes = next(FastDino(model, torch.bfloat16).score(pixels, samples, captions))`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.detectors.fast.decoder import Decoder
from worker.detectors.fast.encoder import Encoder, Places
from worker.detectors.fast.geometry import Geometry, Shapes
from worker.detectors.fast.sampling import SamplingGrid
from worker.detectors.fast.support import why_not_swin
from worker.detectors.fast.swin import Swin
from worker.detectors.prompts import Caption
from worker.detectors.stack import DetDataSample, GroundingDINO

SIZES_KEPT = 4  #: sizes of images whose geometry is remembered; one takes 40 MB at 800 x 1066 pixels
GPU_IMAGES_TOGETHER = 32  #: not measured: no GPU was at hand


@dataclass(frozen=True, eq=False)
class Features:
    """What the backbone and the neck make of images of one size."""

    cells: Tensor  # (images, cells of all levels, channels)
    shapes: Shapes


@dataclass(frozen=True, eq=False)
class _Layout:
    geometry: Geometry
    places: Places
    grid: SamplingGrid  # of the decoder


class FastDino:
    """The network between pixels and scores."""

    def __init__(self, model: GroundingDINO, dtype: torch.dtype, images_together: int | None = None):
        """Copy the weights.

        Args:
            model: one for which `support.why_not` finds no reason.
            dtype: of matrix products.
            images_together: most images that share a matrix product. None: all on a GPU, one on a CPU, which one image
                fills; products of other shapes round differently, so there a batch equals its images to the last bit.
        """
        self._model, self._dtype = model, dtype
        self._together = images_together or (1 if model.level_embed.device.type == "cpu" else GPU_IMAGES_TOGETHER)
        self._encoder, self._decoder = Encoder(model.encoder, dtype), Decoder(model, dtype)
        self._swin = None if why_not_swin(model) else Swin(model.backbone, model.neck, dtype)
        self._lay_out = functools.lru_cache(SIZES_KEPT)(self._make_layout)

    def score(
        self, pixels: Tensor, samples: list[DetDataSample], captions: Sequence[Caption]
    ) -> Iterator[tuple[Tensor, Tensor]] | None:
        """As `PlainDino.score`; None for images with padding and for those with fewer cells than queries."""
        size = tuple(pixels.shape[-2:])
        if any(tuple(sample.img_shape) != size for sample in samples):
            return None
        features = [self.extract(some) for some in pixels.split(self._together)]
        if features[0].cells.shape[1] < self._model.num_queries:
            return None
        return (self._look_at_all(features, caption) for caption in captions)

    def _look_at_all(self, features: list[Features], caption: Caption) -> tuple[Tensor, Tensor]:
        logits, boxes = zip(*(self.look(some, caption.expand(len(some.cells))) for some in features), strict=True)
        return torch.cat(logits), torch.cat(boxes)

    def extract(self, pixels: Tensor) -> Features:
        """(images, 3, height, width), normalised -> features that all captions share."""
        if self._swin is not None:
            return Features(*self._swin(pixels))
        levels = self._model.extract_feat(pixels)
        cells = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)
        return Features(cells.to(self._dtype), tuple((level.shape[2], level.shape[3]) for level in levels))

    def look(self, features: Features, text: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (images, queries, text length) and boxes (images, queries, 4): fractions, centre and size."""
        layout = self._lay_out(features.shapes)
        memory, tokens = self._encoder(features.cells, text, layout.places)
        return self._decoder(memory, tokens, text["text_token_mask"], layout.geometry, layout.grid)

    def _make_layout(self, shapes: Shapes) -> _Layout:
        geometry = Geometry.of(shapes, self._model, self._model.level_embed.device)
        places = Places.of(geometry, self._encoder.layers[0].attention, self._dtype)
        to_image = self._decoder.layers[0].to_image
        grid = SamplingGrid.of(shapes, to_image.heads, to_image.points, geometry.centre_px.device)
        return _Layout(geometry, places, grid)
