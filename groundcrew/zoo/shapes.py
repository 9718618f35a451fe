"""The shapes of the tiny world, as outlines in unit coordinates.

Called by scenes.py; a fine-tune that needs another shape adds an entry to the dictionary it passes on.
Must not import torch, mmdet or the rest of groundcrew: numpy only.
Example: `SHAPES["ring"].rings[0]  # (K, 2) x and y of the outside, within -1 to 1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (K, 2) x to the right and y down, within -1 to 1


@dataclass(frozen=True)
class Shape:
    """The outside first, then the holes, and how far a drawn one may be turned to either side."""

    rings: tuple[Points, ...]
    turn_deg: float


def _around(radii: Sequence[float], corners: int, first_deg: float = -90.0) -> Points:
    """Corners at even angles whose radii repeat, the first one at `first_deg` (-90 is the top)."""
    angle = np.deg2rad(first_deg) + np.arange(corners) * 2 * np.pi / corners
    radius = np.resize(np.asarray(radii), corners)
    return np.stack((np.cos(angle), np.sin(angle)), 1) * radius[:, None]


def _points(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _heart() -> Points:
    """The curve x = 16 sin(t)^3, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the unit square."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack((x / 17, -(y + 2.5) / 17), 1)


_ARROW = _points((-1, -0.32), (0.1, -0.32), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.32), (-1, 0.32))
_CROSS = _points(
    (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
    (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
)  # fmt: skip

SHAPES: dict[str, Shape] = {
    "circle": Shape((_around([1], 64),), 0),
    "square": Shape((_around([1.3], 4, 45),), 10),
    "triangle": Shape((_around([1.1], 3),), 25),
    "star": Shape((_around([1.1, 0.48], 10),), 180),
    "ring": Shape((_around([1], 64), _around([0.55], 64)), 0),
    "diamond": Shape((_points((0, -1.15), (0.72, 0), (0, 1.15), (-0.72, 0)),), 12),
    "heart": Shape((_heart(),), 25),
    "arrow": Shape((_ARROW,), 180),
}
"""The eight shapes that the tiny model knows."""

SPARE_SHAPES: dict[str, Shape] = {
    "gear": Shape((_around([1, 1, 0.74, 0.74], 36), _around([0.3], 32)), 180),
    "cross": Shape((_CROSS,), 12),
}
"""Shapes that the tiny model has never seen, for fine-tuning and for tests of what is unknown."""
