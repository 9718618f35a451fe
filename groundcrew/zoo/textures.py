"""Backgrounds of the tiny world: muted textures, so that the coloured shapes on them stay nameable.

Called by scenes.py.
Must not import torch, mmdet or the rest of groundcrew: numpy and Pillow only.
Example: `draw_background(np.random.default_rng(0), 256, 341)  # (256, 341, 3) float32, 0 to 255`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]


def draw_background(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    """A base colour, one pattern and grain, (height, width, 3), 0 to 255."""
    pattern = _PATTERNS[random.integers(len(_PATTERNS))](random, height_px, width_px)  # (H, W) about -1 to 1
    base, other = muted_colour(random), muted_colour(random)
    mix = np.clip(0.5 + 0.5 * pattern * random.uniform(0.2, 0.9), 0, 1)[..., None]
    grain = random.standard_normal((height_px, width_px, 1), dtype=np.float32) * random.uniform(0, 7)
    return np.clip(base * (1 - mix) + other * mix + grain, 0, 255).astype(np.float32)


def muted_colour(random: np.random.Generator) -> Plane:
    """A colour of low saturation and middle brightness, (3,): none of the colours that shapes have."""
    brightness = random.uniform(75, 195)
    tint = random.uniform(-1, 1, 3)
    return (brightness * (1 + 0.13 * (tint - tint.mean()))).astype(np.float32)


def smooth_noise(random: np.random.Generator, height_px: int, width_px: int, cells: tuple[int, int]) -> Plane:
    """Random values at `cells` (rows, columns) points with a soft course between them, (H, W), about -1 to 1."""
    coarse = Image.fromarray(random.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC))


def _clouds(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    coarse, fine = random.integers(2, 6), random.integers(8, 24)
    return 0.7 * smooth_noise(random, height_px, width_px, (coarse, coarse)) + 0.4 * smooth_noise(
        random, height_px, width_px, (fine, fine)
    )


def _planks(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    """Wood: boards of slightly different brightness, with a long grain."""
    boards = random.uniform(-0.6, 0.6, random.integers(3, 8))
    row = np.arange(height_px) * len(boards) // height_px
    grain = smooth_noise(random, height_px, width_px, (max(height_px // 3, 2), 4))
    return (boards[row][:, None] + 0.4 * grain).astype(np.float32)


def _slope(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    """Sky or a lit wall: brightness rises across the picture."""
    angle = random.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width_px, dtype=np.float32)
    y = np.linspace(-1, 1, height_px, dtype=np.float32)[:, None]
    return np.cos(angle) * x + np.sin(angle) * y + 0.2 * smooth_noise(random, height_px, width_px, (5, 5))


def _stripes(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    angle = random.uniform(0, np.pi)
    period = random.uniform(0.06, 0.3) * min(height_px, width_px)
    x = np.arange(width_px, dtype=np.float32)
    y = np.arange(height_px, dtype=np.float32)[:, None]
    return 0.6 * np.sin((np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period))


def _tiles(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    tile_px = max(int(random.uniform(0.08, 0.3) * min(height_px, width_px)), 2)
    x = np.arange(width_px) // tile_px
    y = (np.arange(height_px) // tile_px)[:, None]
    return ((x + y) % 2 - 0.5).astype(np.float32) + 0.3 * smooth_noise(random, height_px, width_px, (6, 6))


def _sand(random: np.random.Generator, height_px: int, width_px: int) -> Plane:
    fine = (max(height_px // 4, 2), max(width_px // 4, 2))
    coarse = smooth_noise(random, height_px, width_px, (4, 4))
    return 0.8 * smooth_noise(random, height_px, width_px, fine) + 0.3 * coarse


_PATTERNS = (_clouds, _planks, _slope, _stripes, _tiles, _sand)
