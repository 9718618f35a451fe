"""What a training shows: images with boxes, and the categories' prompts.

Called by worker/train.py, worker/evaluate.py, worker/replay.py and this folder; `worker.dataset.Dataset` is such data.
Must not import torch or mmdet.
Example: `SampleSet((Category(1, "Cat", ("cat",)),), [Sample(Path("a.jpg"), boxes_xyxy_px, (1,))], [])`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.tiling import Tiling
from worker.dataset import Category
from worker.images import Pixels, decode_image
from worker.tiles import TileLook

IMAGE_LIMIT_PX = 64_000_000  #: of replayed images; as the default of the settings
ANY_SIZE_PX = 2**62  #: the export has refused what is larger than the settings allow, which may be more than that


class SampleLike(Protocol):
    """One image and everything in it that has a label of the project."""

    @property
    def image_path(self) -> Path: ...
    @property
    def boxes_xyxy_px(self) -> NDArray[np.floating]: ...  # (N, 4) xyxy, pixels of the image as `read_pixels` gives it
    @property
    def category_ids(self) -> Sequence[int] | NDArray[np.int64]: ...  # (N,)


class TrainingData(Protocol):
    """A project's annotations, split once and for all into "train" and "val"."""

    @property
    def categories(self) -> Sequence[Category]: ...
    @property
    def tiles(self) -> TileLook | None: ...  # how val is looked at; None: as a whole
    def split(self, name: str) -> Sequence[SampleLike]: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """The plain `SampleLike`."""

    image_path: Path
    boxes_xyxy_px: NDArray[np.floating]  # (N, 4) xyxy, pixels
    category_ids: Sequence[int]


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The plain `TrainingData`."""

    categories: Sequence[Category]
    train: Sequence[Sample]
    val: Sequence[SampleLike]
    tiles: TileLook | None = None

    def split(self, name: str) -> Sequence[SampleLike]:
        """The samples of "train" or "val"."""
        return {"train": self.train, "val": self.val}[name]


def prompts_of(categories: Sequence[Category]) -> Mapping[int, Sequence[str]]:
    """Category id -> what the model is asked for."""
    return {category.id: category.prompts for category in categories}


def read_pixels(path: Path) -> Pixels:
    """(H, W, 3) RGB, turned as Label Studio shows it.

    Raises:
        ImageUnreadable, ImageTooLarge (by Pillow's own limit); OSError if there is no such file.
    """
    return decode_image(path.read_bytes(), limit_px=ANY_SIZE_PX)


def write_samples(path: Path, data: TrainingData) -> None:
    """For the other processes of one training."""
    parts = {part: [_describe(sample) for sample in data.split(part)] for part in ("train", "val")}
    categories = [[category.id, category.name, list(category.prompts)] for category in data.categories]
    tiles = asdict(data.tiles) if data.tiles is not None else None
    path.write_text(json.dumps({"categories": categories, "tiles": tiles, **parts}))


def read_samples(path: Path) -> SampleSet:
    """What `write_samples` wrote."""
    content = json.loads(path.read_text())
    categories = [Category(number, name, tuple(prompts)) for number, name, prompts in content["categories"]]
    parts = {part: [_read(entry) for entry in content[part]] for part in ("train", "val")}
    return SampleSet(categories, parts["train"], parts["val"], _read_tiles(content["tiles"]))


def _read_tiles(entry: dict | None) -> TileLook | None:
    return TileLook(Tiling(**entry["tiling"]), entry["score_threshold"]) if entry is not None else None


def _describe(sample: SampleLike) -> list[object]:
    boxes = np.asarray(sample.boxes_xyxy_px, float).tolist()
    return [str(sample.image_path), boxes, [int(number) for number in sample.category_ids]]


def _read(entry: list) -> Sample:
    image_path, boxes, category_ids = entry
    return Sample(Path(image_path), np.array(boxes, np.float32).reshape(-1, 4), category_ids)
