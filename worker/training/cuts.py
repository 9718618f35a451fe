"""Cuts the training images of a project that predicts in tiles into the same tiles: files that a training can read.

Called by: worker.stages. Must not import: torch, mmdet.
Each tile is written once and without loss; one image is in memory at a time. A resumed job finds the files, which
appear whole or not at all, and its samples come out the same.
Example: `cut_training_images(dataset, work_dir / "tiles", say, cancelled=lambda: False).split("train")`
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from contract.errors import JobCancelled
from worker.dataset import Dataset
from worker.dataset import Sample as WholeImage
from worker.files import atomic_file
from worker.images import Pixels
from worker.tile_plan import Cut
from worker.training.samples import Sample, SampleSet, TrainingData, read_pixels

log = logging.getLogger(__name__)

COMPRESS_LEVEL = 1  #: of zlib: a tile is written once and read many times, and level 6 saves 7 % (one photo)


def cut_training_images(
    dataset: Dataset, directory: Path, say: Callable[[int, int], None], cancelled: Callable[[], bool]
) -> TrainingData:
    """What the training learns from; without tiles the dataset itself. Images to measure with stay whole.

    Args:
        directory: of this job, for the tiles.
        say: progress, called with (images done, images in all).
        cancelled: asked before each tile is written.

    Raises:
        JobCancelled; ImageUnreadable, OSError: an image of the cache, or the disk.
    """
    if dataset.tiles is None:
        return dataset
    samples, images = [], dataset.split("train")
    for done, image in enumerate(images):
        say(done, len(images))
        samples += _cut(dataset, image, directory, cancelled)
    say(len(images), len(images))
    log.info("learning from %d tiles and images, of %d images", len(samples), len(images))
    return SampleSet(dataset.categories, samples, dataset.split("val"), dataset.tiles)


def _cut(dataset: Dataset, image: WholeImage, directory: Path, cancelled: Callable[[], bool]) -> Iterator[Sample]:
    pixels: Pixels | None = None  # decoded once, if any of its tiles is missing
    whole_px = (0, 0, image.width_px, image.height_px)
    for cut in dataset.plan(image).cuts:
        path = image.image_path
        if cut.bounds_px != whole_px:
            path = directory / f"{image.task_id}-{cut.bounds_px[0]}-{cut.bounds_px[1]}.png"
            if not path.exists():
                if cancelled():
                    raise JobCancelled("cancelled while images were cut into tiles")
                pixels = read_pixels(image.image_path) if pixels is None else pixels
                _write(path, take(pixels, cut))
        yield Sample(path, cut.boxes_xyxy_px, [image.category_ids[number] for number in cut.numbers])


def take(pixels: Pixels, cut: Cut) -> Pixels:
    """The pixels of one tile. What it has to hide is of its mean colour, save where an object lies that it shows."""
    left, top, right, bottom = cut.bounds_px
    tile = pixels[top:bottom, left:right]
    if not len(cut.hidden_xyxy_px):
        return tile
    hidden = np.zeros(tile.shape[:2], bool)
    for boxes, value in ((cut.hidden_xyxy_px, True), (cut.boxes_xyxy_px, False)):
        for x1, y1, x2, y2 in np.concatenate((np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])), 1).astype(int):
            hidden[y1:y2, x1:x2] = value
    tile = tile.copy()
    tile[hidden] = tile.reshape(-1, 3).mean(0).round().astype(np.uint8)
    return tile


def _write(path: Path, tile: Pixels) -> None:
    with atomic_file(path) as file:
        Image.fromarray(np.ascontiguousarray(tile)).save(file, "PNG", compress_level=COMPRESS_LEVEL)
