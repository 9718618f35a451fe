"""Shows an image a little differently each time: mirrored, at another size, cut.

Called by stream.py. Must not import torch or mmdet: numpy and Pillow only.
After the cat recipe of MM Grounding DINO, but scales are relative to the size that the model predicts at, and random
numbers come from the caller, so that a resumed training sees what it would have seen. Colours stay: they have names.
Example: `augment(np.random.default_rng(0), pixels, boxes_xyxy_px, Augmentation(256, 512), scale=0.9)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.images import Pixels

LEAST_CROP = 0.5  #: of either side; the recipe's 384 to 600 out of 400 to 600 pixels
LEAST_SEEN = 0.4  #: a box stays where at least so much of its area remains

Boxes = NDArray[np.float32]  # (N, 4) xyxy, pixels


@dataclass(frozen=True)
class Augmentation:
    """Target size as in mmcv's `FixScaleResize`, padding as in its `Pad`, and how far to stray from them."""

    short_side_px: int
    long_side_px: int
    multiple_px: int = 1  #: sides are padded, to the right and below, to multiples of this
    fill_rgb: tuple[int, int, int] = (0, 0, 0)
    scale_range: tuple[float, float] = (1.0, 1.0)
    crop_chance: float = 0.0
    flip_chance: float = 0.0


def augment(
    random: np.random.Generator, pixels: Pixels, boxes_xyxy_px: NDArray[np.floating], how: Augmentation, scale: float
) -> tuple[Pixels, Boxes, NDArray[np.bool_]]:
    """Another view of an image.

    Args:
        random: decides; equal states give equal views.
        pixels: (H, W, 3).
        boxes_xyxy_px: (N, 4).
        how: chances and the size at scale 1.
        scale: of this view.

    Returns:
        Pixels (h, w, 3); all boxes, (N, 4), moved along and clipped; (N,) True for those that are still in sight.
    """
    boxes = boxes_xyxy_px.astype(np.float32).reshape(-1, 4)
    areas = _areas(boxes)
    if random.random() < how.flip_chance:
        pixels, boxes = _flip(pixels, boxes)
    zoom = 1.0
    if random.random() < how.crop_chance:
        part = random.uniform(LEAST_CROP, 1.0)
        pixels, boxes = _crop(random, pixels, boxes, part)
        zoom = part  # what remains is shown as large as before, not enlarged to fill the view
    seen = _areas(boxes) >= np.maximum(LEAST_SEEN * areas, 1.0)
    pixels, boxes = _resize(pixels, boxes, how, zoom * scale)
    return _pad(pixels, how), boxes, seen


def _areas(boxes: Boxes) -> NDArray[np.float32]:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


def _flip(pixels: Pixels, boxes: Boxes) -> tuple[Pixels, Boxes]:
    width = pixels.shape[1]
    return pixels[:, ::-1], np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)


def _crop(random: np.random.Generator, pixels: Pixels, boxes: Boxes, part: float) -> tuple[Pixels, Boxes]:
    height, width = pixels.shape[:2]
    size = np.maximum(np.array([width, height]) * part, 1).astype(int)
    left, top = (int(random.integers(0, free + 1)) for free in (width - size[0], height - size[1]))
    moved = boxes - np.array([left, top, left, top], np.float32)
    return pixels[top : top + size[1], left : left + size[0]], moved.clip(0, np.tile(size, 2)).astype(np.float32)


def _resize(pixels: Pixels, boxes: Boxes, how: Augmentation, factor: float) -> tuple[Pixels, Boxes]:
    height, width = pixels.shape[:2]
    fit = min(how.short_side_px / min(height, width), how.long_side_px / max(height, width))
    size = [max(int(side * fit * factor + 0.5), 16) for side in (width, height)]
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR))
    ratio = np.tile(np.array(size) / (width, height), 2)
    return resized, (boxes * ratio).astype(np.float32)


def _pad(pixels: Pixels, how: Augmentation) -> Pixels:
    height, width = (-(-side // how.multiple_px) * how.multiple_px for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    padded = np.empty((height, width, 3), np.uint8)
    padded[:] = how.fill_rgb
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded
