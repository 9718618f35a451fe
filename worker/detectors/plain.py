"""The plain path: mmdet's own modules, in 32 bits, for whatever the fast path does not cover.

Called by `mmgdino.py`. Must not import backend, groundcrew or other detectors.
It is also what the fast path is measured against.
Example: `logits, boxes = next(PlainDino(model).score(pixels, samples, captions))`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import functional

from worker.detectors.prompts import Caption
from worker.detectors.stack import DetDataSample, GroundingDINO


class PlainDino:
    """mmdet's network between pixels and scores, for many images and captions a call."""

    def __init__(self, model: GroundingDINO):
        """Use the weights of `model` as they are at each call."""
        self._model = model

    def score(
        self, pixels: Tensor, samples: list[DetDataSample], captions: Sequence[Caption]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each caption logits (images, queries, text length) and boxes (images, queries, 4) as fractions.

        Args:
            pixels: (images, 3, height, width), normalised.
            samples: know how much of each is padding.
            captions: share the features of the images.
        """
        features = self._extract(pixels, samples)
        for caption in captions:
            outputs = self._model.forward_transformer(features, caption.expand(len(pixels)), samples)
            logits, boxes = self._model.bbox_head(**outputs)  # of every decoder layer; the last one counts
            yield logits[-1], boxes[-1]

    def _extract(self, pixels: Tensor, samples: list[DetDataSample]) -> tuple[Tensor, ...]:
        features = self._model.extract_feat(pixels)
        if sum(level.shape[-2] * level.shape[-1] for level in features) >= self._model.num_queries:
            return features
        # A very thin image has fewer cells than the decoder has queries, and mmdet fails: pad it to a square.
        height, width = pixels.shape[-2:]
        side = max(height, width)
        for sample in samples:
            sample.set_metainfo({"batch_input_shape": (side, side)})
        return self._model.extract_feat(functional.pad(pixels, (0, side - width, 0, side - height)))
