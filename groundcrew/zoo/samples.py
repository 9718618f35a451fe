"""Pictures to try things with: generated scenes of coloured shapes as files, which the tiny model knows.

Called by: people, the documentation, docs/screenshots_real.py. Must not import: torch, mmdet, backend, worker.
Example: `python -m groundcrew.zoo.samples shapes --count 6`, or `--large` for one picture of 1280 x 1024 pixels
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groundcrew.zoo.scenes import make_scene

FIRST_SEED = 660_000  #: far from those of training, replay and tests
SCENE_PX = (256, 320)  # height, width
LARGE = (4, 4)  # scenes in a column, in a row
#: What the documentation asks for.
PAIRS = (("red", "circle"), ("blue", "square"), ("green", "star"), ("yellow", "star"), ("blue", "star"),
         ("green", "triangle"), ("green", "heart"), ("yellow", "arrow"))  # fmt: skip


def write_samples(folder: Path, count: int, *, large: bool = False) -> list[Path]:
    """Write `count` pictures, or as many large ones, made of sixteen scenes each; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        image = make_large(number) if large else _draw(FIRST_SEED + number)
        paths.append(folder / f"{'large' if large else 'shapes'}-{number:02}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def make_large(number: int) -> NDArray[np.uint8]:
    """Sixteen scenes side by side: shapes of 24 to 110 pixels in a picture of 1024 x 1280. (H, W, 3)"""
    rows, columns = LARGE
    first = FIRST_SEED + 1000 + number * rows * columns
    scenes = [_draw(first + place) for place in range(rows * columns)]
    return np.vstack([np.hstack(scenes[row * columns : (row + 1) * columns]) for row in range(rows)])


def _draw(seed: int) -> NDArray[np.uint8]:
    return make_scene(seed, size_px=SCENE_PX, pairs=PAIRS, counts=(3, 6)).image


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m groundcrew.zoo.samples", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--large", action="store_true", help="1280 x 1024 pixels each")
    asked = parser.parse_args(arguments)
    paths = write_samples(asked.folder, asked.count, large=asked.large)
    print(f"{len(paths)} pictures in {asked.folder}/")


if __name__ == "__main__":
    main()
