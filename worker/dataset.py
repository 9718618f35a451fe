"""The data of one fine-tuning: images, boxes in pixels, splits. Written as dataset.json in COCO's form.

Called by: worker.export (makes it), worker.train, worker.evaluate. Must not import: torch, anything with a network.
Format: https://cocodataset.org/#format-data (object detection), with `task_id` and `split` on each image.
Example: `for sample in Dataset.read(work_dir).split("train"): sample.image_path, sample.boxes_xyxy_px`
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.errors import TrainingDataError
from contract.tiling import Tiling
from worker.files import atomic_file
from worker.remarks import summarise, warn
from worker.splits import SPLITS, Split
from worker.tile_plan import Plan, plan_tiles
from worker.tiles import TileLook

FILE_NAME = "dataset.json"
Json = dict[str, object]


class Category(NamedTuple):
    """What is looked for. Labels with the same prompts are one category: the model cannot tell them apart."""

    id: int  #: from 1
    name: str  #: the label, as Label Studio accepts it in a result
    prompts: tuple[str, ...]  #: what the detector is asked for; several are synonyms


class LabelledBox(NamedTuple):
    """One box in pixels of the upright image, inside it, each side at least 1."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    category_id: int


class SkippedTask(NamedTuple):
    """An annotated task that is not used, and why."""

    task_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """One annotated image. No boxes: an annotator submitted it empty, so nothing of these categories is in it."""

    task_id: int
    file_name: str  #: below the dataset's `image_dir`
    width_px: int  #: of the upright image
    height_px: int
    split: Split
    boxes: tuple[LabelledBox, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as training and evaluation take it; worker.images decodes the file and turns it upright."""

    task_id: int
    image_path: Path
    width_px: int
    height_px: int
    boxes_xyxy_px: NDArray[np.float32]  # (N, 4) xyxy, pixels
    category_ids: tuple[int, ...]  # (N,)


@dataclass(frozen=True)
class DatasetInfo:
    """Where the data comes from."""

    project_id: int
    created_at: str  #: ISO 8601, UTC
    model_version: str  #: ref of the version that the data was exported for
    label_config_hash: str  #: of the labels and prompts that were read from the label config


@dataclass(frozen=True)
class Dataset:
    """Everything one training uses. Images are in the order of their task ids."""

    info: DatasetInfo
    categories: tuple[Category, ...]
    images: tuple[DatasetImage, ...]
    image_dir: Path
    notes: Mapping[str, int]  #: what happened to regions and annotations on the way: sentence -> how often
    skipped: tuple[SkippedTask, ...]
    tiles: TileLook | None = None  #: as the label config asked for it at the export; None: images are looked at whole

    @cached_property
    def prompts(self) -> dict[int, tuple[str, ...]]:
        """Category id -> the prompts that stand for it."""
        return {category.id: category.prompts for category in self.categories}

    @cached_property
    def splits(self) -> dict[int, Split]:
        """Task id -> split: the next export takes it as `kept_splits`, so that no task ever moves."""
        return {image.task_id: image.split for image in self.images}

    def split(self, part: Split) -> list[Sample]:
        """The images of one split."""
        return [self._sample(image) for image in self.images if image.split == part]

    def _sample(self, image: DatasetImage) -> Sample:
        corners = [(x, y, x + width, y + height) for x, y, width, height, _ in image.boxes]
        xyxy_px = np.array(corners, dtype=np.float32).reshape(-1, 4)  # (N, 4) xyxy, pixels
        category_ids = tuple(box.category_id for box in image.boxes)  # (N,)
        path = self.image_dir / image.file_name
        return Sample(image.task_id, path, image.width_px, image.height_px, xyxy_px, category_ids)

    def plan(self, sample: Sample) -> Plan:
        """What a training learns from one image; only where there are `tiles`."""
        assert self.tiles is not None
        size_px = (sample.width_px, sample.height_px)
        return plan_tiles(size_px, sample.boxes_xyxy_px, self.tiles.tiling, sample.task_id)

    @cached_property
    def tile_counts(self) -> dict[str, int]:
        """The tiles and how many are learned from; nothing without tiles."""
        if self.tiles is None:
            return {}
        plans = [self.plan(sample) for sample in self.split("train")]
        return {
            "tile_size_px": self.tiles.tiling.size_px,
            "tile_overlap_percent": round(100 * self.tiles.tiling.overlap),
            "tiles_train": sum(plan.tiles for plan in plans),
            "tiles_train_without_boxes": sum(plan.tiles_without_boxes for plan in plans),
            "tiles_left_out": sum(plan.left_out for plan in plans),
        }

    @cached_property
    def counts(self) -> Json:
        """How much there is, for people and for the version's card."""
        boxes = Counter((box.category_id, image.split) for image in self.images for box in image.boxes)
        return {
            "images": _by_split(image.split for image in self.images),
            **self.tile_counts,
            "images_without_boxes": _by_split(image.split for image in self.images if not image.boxes),
            "boxes": {
                category.name: {split: boxes[category.id, split] for split in SPLITS} for category in self.categories
            },
            "notes": dict(self.notes),
            "skipped_tasks": dict(Counter(task.reason for task in self.skipped)),
        }

    @cached_property
    def warnings(self) -> list[str]:
        """What keeps a class from being learned or measured; none of it stops a training."""
        seen = {(box.category_id, image.split) for image in self.images for box in image.boxes}
        sentences = (
            warn(category.name, [split for split in SPLITS if (category.id, split) in seen])
            for category in self.categories
        )
        return [sentence for sentence in sentences if sentence]

    @property
    def remarks(self) -> list[str]:
        """What a person should hear about this data, a few sentences; dataset.json has all of it."""
        return summarise(len(self.images), [task.reason for task in self.skipped], self.warnings)

    @cached_property
    def sha256(self) -> str:
        """Of what training sees: categories, images (named by their content), splits and boxes; not of when or why.

        Where images are cut into tiles, of how, too.
        """
        digest = hashlib.sha256(_dump(self._tile_row()) if self.tiles else b"")
        for rows in (self._category_rows(), self._image_rows(), self._annotation_rows()):
            for row in rows:
                digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()

    # -- the file ----------------------------------------------------------------------------------------------------

    def write(self, out_dir: Path) -> Path:
        """Write out_dir/dataset.json, whole or not at all; one image or box a line. Raises OSError."""
        path = out_dir / FILE_NAME
        image_dir = os.path.relpath(self.image_dir.resolve(), out_dir.resolve())
        with atomic_file(path) as file:
            file.write(b'{"info": ' + _dump({**asdict(self.info), "image_dir": image_dir}))
            if self.tiles is not None:
                file.write(b',\n"tiles": ' + _dump(self._tile_row()))
            file.write(b',\n"counts": ' + _dump(self.counts) + b',\n"warnings": ' + _dump(self.warnings))
            _write_rows(file, "skipped", (task._asdict() for task in self.skipped))
            _write_rows(file, "categories", self._category_rows())
            _write_rows(file, "images", self._image_rows())
            _write_rows(file, "annotations", self._annotation_rows())
            file.write(b"}\n")
        return path

    def _tile_row(self) -> Json:
        assert self.tiles is not None
        return {**asdict(self.tiles.tiling), "score_threshold": self.tiles.score_threshold}

    def _category_rows(self) -> Iterator[Json]:
        return ({"id": id_, "name": name, "prompts": list(prompts)} for id_, name, prompts in self.categories)

    def _image_rows(self) -> Iterator[Json]:
        for image_id, image in enumerate(self.images, start=1):
            size = {"width": image.width_px, "height": image.height_px}
            place = {"task_id": image.task_id, "split": image.split}
            yield {"id": image_id, "file_name": image.file_name, **size, **place}

    def _annotation_rows(self) -> Iterator[Json]:
        boxes = ((image_id, box) for image_id, image in enumerate(self.images, start=1) for box in image.boxes)
        for annotation_id, (image_id, box) in enumerate(boxes, start=1):
            yield {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": box.category_id,
                "bbox": list(box[:4]),  # (4,) xywh, pixels
                "area": box.width_px * box.height_px,
                "iscrowd": 0,
            }

    @classmethod
    def read(cls, directory: Path, *, image_dir: Path | None = None) -> Dataset:
        """The dataset in directory/dataset.json.

        Args:
            image_dir: where its images are, if the file was moved away from them.

        Raises TrainingDataError: there is none, or it is damaged.
        """
        path = directory / FILE_NAME
        try:
            return _from_json(json.loads(path.read_bytes()), directory, image_dir)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise TrainingDataError(f"{path} cannot be read ({problem}): delete it, and it is exported again") from None


def _from_json(content: dict, directory: Path, image_dir: Path | None) -> Dataset:
    info = dict(content["info"])
    written_dir = info.pop("image_dir")
    boxes: defaultdict[int, list[LabelledBox]] = defaultdict(list)
    for row in content["annotations"]:
        boxes[row["image_id"]].append(LabelledBox(*row["bbox"], row["category_id"]))
    return Dataset(
        info=DatasetInfo(**info),
        categories=tuple(Category(row["id"], row["name"], tuple(row["prompts"])) for row in content["categories"]),
        images=tuple(_image_from_json(row, tuple(boxes[row["id"]])) for row in content["images"]),
        image_dir=image_dir or (directory / written_dir).resolve(),
        notes=content["counts"]["notes"],
        skipped=tuple(SkippedTask(**row) for row in content["skipped"]),
        tiles=_tiles_from_json(content.get("tiles")),
    )


def _tiles_from_json(row: dict | None) -> TileLook | None:
    if row is None:
        return None
    return TileLook(Tiling(row["size_px"], row["overlap"], row["whole_image"]), row["score_threshold"])


def _image_from_json(row: dict, boxes: tuple[LabelledBox, ...]) -> DatasetImage:
    if row["split"] not in SPLITS:
        raise ValueError(f"image {row['id']} is in no known split")
    return DatasetImage(row["task_id"], row["file_name"], row["width"], row["height"], row["split"], boxes)


def _by_split(splits: Iterable[Split]) -> dict[str, int]:
    counted = Counter(splits)
    return {split: counted[split] for split in SPLITS}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _write_rows(file: IO[bytes], name: str, rows: Iterable[Json]) -> None:
    file.write(f',\n"{name}": ['.encode())
    for number, row in enumerate(rows):
        file.write((b",\n" if number else b"\n") + _dump(row))
    file.write(b"]")
