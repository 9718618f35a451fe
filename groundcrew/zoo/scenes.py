"""Pictures of a world of coloured shapes on textured backgrounds, with the box and the name of each shape.

Called by the training and evaluation of the tiny model, by the demo and by tests.
Must not import torch, mmdet or the rest of groundcrew: numpy and Pillow only.
Example: `scene = make_scene(7, size_px=(480, 640)); scene.names  # ["red circle", "blue star", ...]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from groundcrew.zoo.shapes import SHAPES, SPARE_SHAPES, Shape
from groundcrew.zoo.textures import draw_background

Pair = tuple[str, str]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 38),
    "orange": (245, 130, 22),
    "yellow": (246, 216, 42),
    "green": (48, 155, 58),
    "cyan": (52, 205, 218),
    "blue": (40, 78, 205),
    "pink": (247, 132, 188),
    "brown": (120, 68, 32),
    "white": (244, 244, 242),
    "black": (24, 24, 27),
}
"""The ten colours that the tiny model knows (red, green, blue)."""

SPARE_COLOURS: dict[str, tuple[int, int, int]] = {"purple": (126, 52, 172), "lime": (170, 230, 40)}
"""Colours that the tiny model has never seen, for fine-tuning."""

ALL_PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT_PAIRS: tuple[Pair, ...] = tuple(
    (list(COLOURS)[(number + step) % len(COLOURS)], shape) for number, shape in enumerate(SHAPES) for step in (2, 7)
)
"""Two colours of each shape that training never shows and never names: what the model makes of them, it inferred."""
SEEN_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)

SHORT_SIDE_PX = 256
"""The side that sizes of objects refer to; a larger picture has larger objects, not more detail to find."""
OBJECT_SIDES_PX = (24, 110)
MAX_COVERED = 0.1  # of the smaller of two boxes: what is drawn later hides hardly anything
OVERSAMPLING = 4
NOTHING_MORE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it."""

    image: NDArray[np.uint8]  # (H, W, 3) red, green, blue
    boxes_xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels, tight around the drawn pixels
    pairs: list[Pair]  # colour and shape of each box

    @property
    def names(self) -> list[str]:
        """Name of each box, such as "red circle"."""
        return [f"{colour} {shape}" for colour, shape in self.pairs]


def make_scene(
    seed: int,
    *,
    size_px: int | tuple[int, int] = SHORT_SIDE_PX,
    pairs: Sequence[Pair] = ALL_PAIRS,
    counts: tuple[int, int] = (2, 7),
    more_shapes: Mapping[str, Shape] = NOTHING_MORE,
    more_colours: Mapping[str, tuple[int, int, int]] = NOTHING_MORE,
) -> Scene:
    """Draw the scene of this seed: equal arguments give equal pictures.

    Args:
        seed: any non-negative number.
        size_px: side of a square picture, or (height, width).
        pairs: colours and shapes to choose from; names of SPARE_COLOURS and SPARE_SHAPES are allowed.
        counts: smallest and largest number of objects; fewer are drawn where no free place is found.
        more_shapes: further shapes that `pairs` may name.
        more_colours: further colours that `pairs` may name.

    Raises:
        KeyError: if a pair names a colour or shape that has no entry here.
    """
    random = np.random.default_rng(seed)
    height_px, width_px = (size_px, size_px) if isinstance(size_px, int) else size_px
    canvas = draw_background(random, height_px, width_px)
    boxes: list[NDArray[np.float32]] = []
    chosen: list[Pair] = []
    for sides_px in _draw_sides(random, min(height_px, width_px), int(random.integers(counts[0], counts[1] + 1))):
        colour, shape = pairs[random.integers(len(pairs))]
        mask = draw_mask(random, {**SHAPES, **SPARE_SHAPES, **more_shapes}[shape], sides_px)
        corner = _find_place(random, mask.shape, (height_px, width_px), boxes)
        if corner is None:
            continue
        boxes.append(_box_of(mask, corner))
        chosen.append((colour, shape))
        _paint(random, canvas, mask, corner, {**COLOURS, **SPARE_COLOURS, **more_colours}[colour])
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32).reshape(-1, 4), chosen)


def _draw_sides(random: np.random.Generator, short_side_px: int, count: int) -> Iterator[tuple[float, float]]:
    """Width and height of each object: sizes even on a log scale, sides up to a quarter apart."""
    scale = short_side_px / SHORT_SIDE_PX
    low, high = np.log(OBJECT_SIDES_PX)
    for _ in range(count):
        side = scale * np.exp(random.uniform(low, high))
        stretch = random.uniform(0.88, 1.12)
        yield side * stretch, side / stretch


def draw_mask(random: np.random.Generator, shape: Shape, sides_px: tuple[float, float]) -> NDArray[np.float32]:
    """How much of each pixel a turned and stretched shape covers, (h, w), 0 to 1; h and w fit the shape."""
    angle = np.deg2rad(random.uniform(-shape.turn_deg, shape.turn_deg))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    rings = [ring @ turn * np.array(sides_px) / 2 for ring in shape.rings]  # (K, 2) each, pixels
    low, high = rings[0].min(0), rings[0].max(0)
    width, height = np.ceil(high - low).astype(int) + 1
    picture = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    draw = ImageDraw.Draw(picture)
    for number, ring in enumerate(rings):
        corners = ((ring - low + 0.5) * OVERSAMPLING).ravel().tolist()
        draw.polygon(corners, fill=255 if number == 0 else 0)
    return np.asarray(picture.reduce(OVERSAMPLING), np.float32) / 255


def _find_place(
    random: np.random.Generator, mask_px: tuple[int, ...], picture_px: tuple[int, int], boxes: list[NDArray[np.float32]]
) -> tuple[int, int] | None:
    """Row and column of the upper left corner, where it covers no other box; None after 20 tries."""
    height, width = mask_px
    for _ in range(20):
        row = int(random.integers(0, max(picture_px[0] - height, 0) + 1))
        column = int(random.integers(0, max(picture_px[1] - width, 0) + 1))
        box = np.array([column, row, column + width, row + height], np.float32)
        if not any(_covered(box, other) > MAX_COVERED for other in boxes):
            return row, column
    return None


def _covered(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Common area as a part of the smaller box."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    smaller = min(np.prod(first[2:] - first[:2]), np.prod(second[2:] - second[:2]))
    return float(np.prod(np.clip(sides, 0, None)) / smaller)


def _box_of(mask: NDArray[np.float32], corner: tuple[int, int]) -> NDArray[np.float32]:
    """Box around the pixels that are covered by half or more, (4,) xyxy, pixels."""
    rows, columns = np.flatnonzero(mask.max(1) >= 0.5), np.flatnonzero(mask.max(0) >= 0.5)
    row, column = corner
    return np.array([column + columns[0], row + rows[0], column + columns[-1] + 1, row + rows[-1] + 1], np.float32)


def _paint(
    random: np.random.Generator,
    canvas: NDArray[np.float32],
    mask: NDArray[np.float32],
    corner: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    """Blend one shape into the canvas, with its own shade of the colour, light from one side, and grain."""
    height, width = mask.shape
    row, column = corner
    area = canvas[row : row + height, column : column + width]
    mask = mask[: area.shape[0], : area.shape[1]]
    angle = random.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, mask.shape[1], dtype=np.float32)
    y = np.linspace(-1, 1, mask.shape[0], dtype=np.float32)[:, None]
    light = 1 + random.uniform(0, 0.14) * (np.cos(angle) * x + np.sin(angle) * y)
    shade = np.array(colour, np.float32) + random.uniform(-12, 12, 3).astype(np.float32)
    grain = random.standard_normal((*mask.shape, 1), dtype=np.float32) * random.uniform(0, 6)
    alpha = mask[..., None]
    area += alpha * (shade * light[..., None] + grain - area)
