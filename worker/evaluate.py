"""Measures a model on a project's val split and on what its base knew; worker/decision.py compares two of them.

Called by worker/judgement.py, by worker/training/run.py between updates, and by `groundcrew bench finetune`.
Must not import backend, groundcrew, torch or mmdet: the detector is passed in. Average precision is pycocotools'.
Example: `evaluate(load(source, "cpu"), dataset.split("val"), dataset.categories).map`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.errors import JobCancelled
from worker.dataset import Category
from worker.detectors.base import Boxes, Detector
from worker.images import Pixels
from worker.matches import RECALLS, Matches, mean_ap, read_matches
from worker.replay import Replay
from worker.tiles import TileLook, detect
from worker.training.samples import SampleLike, read_pixels

LEAST_SCORE = 0.001  #: COCO ranks all boxes; those below change no third digit and cost time
LEAST_TILE_SCORE = 0.05  #: the same for a picture of 111 tiles: mAP 0.8988 (0.001: 0.8990), in half the time to merge
IMAGES_A_CALL = 4
MOST_BOXES = 100  #: of one label in an image that count, as in COCO; in tiles, which may show more objects, all count
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Metrics:
    """COCO's figures, 0 to 1, over the categories that are present."""

    map: float  #: mean over IoU 0.50 to 0.95; 0 if there is no box at all
    ap50: float
    per_class_ap: Mapping[str, float]  #: over IoU 0.50 to 0.95, by the category's name
    per_class_ap50: Mapping[str, float]
    images: int
    boxes: int
    precision50: NDArray[np.float64]  # (101,) mean precision at IoU 0.5 for each of RECALLS
    matches: Matches = field(default_factory=Matches)  #: image by image

    @property
    def weighted_map(self) -> float:
        """`map` with each category counted by its annotated boxes: what a person has to correct, by and large."""
        (found,) = mean_ap(self.matches, np.ones((1, self.matches.images), np.int64), weighted=True)
        return float(found) if self.matches.classes else 0.0

    def to_json(self) -> dict[str, object]:
        """For metrics.json and the version's card."""
        per_class = {name: round(value, 4) for name, value in self.per_class_ap.items()}
        main = {"map": self.map, "weighted_map": self.weighted_map, "ap50": self.ap50}
        figures = {**{name: round(value, 4) for name, value in main.items()}, "per_class_ap": per_class}
        return {**figures, "images": self.images, "boxes": self.boxes}


@dataclass(frozen=True, eq=False)
class Judged:
    """One image: what is there and what was found, by numbers of names."""

    truth_xyxy_px: NDArray[np.floating]  # (N, 4) xyxy, pixels
    truth: Sequence[int]  # (N,)
    found: Boxes
    names: Sequence[int]  #: number of the name that each label of `found` stands for


def evaluate(
    detector: Detector,
    samples: Sequence[SampleLike],
    categories: Sequence[Category],
    *,
    tiles: TileLook | None = None,
    nms_iou: float | None = 0.7,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[], object] = lambda: None,
) -> Metrics:
    """Look for all prompts of the project in every sample, as prediction does.

    Args:
        tiles: how large images are looked at; None: as a whole.
        say: progress, called after each image.

    Raises:
        JobCancelled: as soon as `cancelled` says so.
        PromptError, OutOfDeviceMemory: from the detector; ImageUnreadable: from a file.
    """
    number = {category.id: place for place, category in enumerate(categories)}
    pairs = [(number[category.id], prompt) for category in categories for prompt in category.prompts]
    groups, prompts = [place for place, _ in pairs], tuple(prompt for _, prompt in pairs)
    search = _Search(detector, prompts, groups, nms_iou, tiles, cancelled)
    judged = []
    for part in _cut(samples, IMAGES_A_CALL if tiles is None else 1, cancelled):
        found = search.look([read_pixels(sample.image_path) for sample in part])
        for sample, boxes in zip(part, found, strict=True):
            truth = [number[int(category)] for category in sample.category_ids]
            judged.append(Judged(np.asarray(sample.boxes_xyxy_px), truth, boxes, groups))
            say()
    most = [MOST_BOXES, *(len(one.found) for one in judged if tiles is not None)]
    return measure(judged, [category.name for category in categories], most_boxes=max(most))


@dataclass(frozen=True)
class _Search:
    """One question to a detector."""

    detector: Detector
    prompts: tuple[str, ...]
    groups: Sequence[int]
    nms_iou: float | None
    tiles: TileLook | None
    cancelled: Callable[[], bool]

    def look(self, images: Sequence[Pixels]) -> Sequence[Boxes]:
        if self.tiles is None:
            return self._find(images, LEAST_SCORE)
        sure_score, tiling = self.tiles.score_threshold, self.tiles.tiling
        return [
            detect(self._find_in_tiles, pixels, tiling, groups=self.groups, nms_iou=self.nms_iou, sure_score=sure_score)
            for pixels in images
        ]

    def _find_in_tiles(self, tiles: Sequence[Pixels]) -> list[Boxes]:
        assert self.tiles is not None
        lowest = min(LEAST_TILE_SCORE, self.tiles.score_threshold)
        parts = _cut(tiles, IMAGES_A_CALL, self.cancelled)
        return [boxes for part in parts for boxes in self._find(part, lowest)]

    def _find(self, images: Sequence[Pixels], lowest: float) -> list[Boxes]:
        return self.detector.detect(
            images, self.prompts, score_threshold=lowest, nms_iou=self.nms_iou, groups=self.groups
        )


def evaluate_general(
    detector: Detector,
    replay: Replay | None,
    *,
    nms_iou: float | None = 0.7,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[], object] = lambda: None,
) -> Metrics | None:
    """The forgetting check: the base's held-out images, each with its own prompts; None if there are none."""
    if replay is None or not replay.held_out:
        return None
    names = list(dict.fromkeys(name for item in replay.held_out for name in item.captions[0].names))
    number = {name: place for place, name in enumerate(names)}
    judged = []
    for (item,) in _cut(replay.held_out, 1, cancelled):
        caption = item.captions[0]
        asked = [number[name] for name in caption.names]
        image = replay.read_pixels(item)
        found = detector.detect([image], tuple(caption.names), score_threshold=LEAST_SCORE, nms_iou=nms_iou)[0]
        shown = [box for box, group in enumerate(caption.matches) if group]
        truth = [asked[caption.matches[box][0]] for box in shown]
        judged.append(Judged(item.boxes_xyxy_px[shown], truth, found, asked))
        say()
    return measure(judged, names)


def _cut(items: Sequence[Item], size: int, cancelled: Callable[[], bool]) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        if cancelled():
            raise JobCancelled("The evaluation was cancelled.")
        yield items[first : first + size]


def measure(judged: Sequence[Judged], names: Sequence[str], *, most_boxes: int = MOST_BOXES) -> Metrics:
    """COCO's average precision; names that no image shows are left out, as COCO does."""
    boxes = sum(len(image.truth) for image in judged)
    if not boxes:
        return Metrics(0.0, 0.0, {}, {}, len(judged), 0, np.zeros(len(RECALLS)))
    # (10 IoUs, 101 recalls, names); -1 where a name is not present
    precision, matches = _judge(judged, len(names), most_boxes)
    present = [place for place in range(len(names)) if precision[0, 0, place] >= 0]
    per_class = {names[place]: float(precision[:, :, place].mean()) for place in present}
    per_class50 = {names[place]: float(precision[0, :, place].mean()) for place in present}
    means = (float(np.mean(list(values.values()))) for values in (per_class, per_class50))
    return Metrics(*means, per_class, per_class50, len(judged), boxes, precision[0][:, present].mean(1), matches)


def _judge(judged: Sequence[Judged], names: int, most_boxes: int) -> tuple[NDArray[np.float64], Matches]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports each step
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image} for image in range(len(judged))],
            "categories": [{"id": name} for name in range(names)],
            "annotations": list(_truths(judged)),
        }
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": list(_finds(judged))}
        found.createIndex()
        judge = COCOeval(truth, found, "bbox")
        judge.params.maxDets = [most_boxes]
        judge.evaluate()
        judge.accumulate()
    # objects of all sizes
    return judge.eval["precision"][..., 0, -1], read_matches(judge)


def _truths(judged: Sequence[Judged]) -> Iterator[dict[str, object]]:
    number = itertools.count(1)
    for image, one in enumerate(judged):
        for box, name in zip(_to_xywh(one.truth_xyxy_px), one.truth, strict=True):
            size = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            yield {"id": next(number), "image_id": image, "category_id": name, **size}


def _finds(judged: Sequence[Judged]) -> Iterator[dict[str, object]]:
    number = itertools.count(1)
    for image, one in enumerate(judged):
        rows: Iterable[tuple[list[float], float, int]] = zip(
            _to_xywh(one.found.xyxy_px), one.found.scores.tolist(), one.found.labels.tolist(), strict=True
        )
        for box, score, label in rows:
            size = {"bbox": box, "area": box[2] * box[3], "score": score}
            yield {"id": next(number), "image_id": image, "category_id": one.names[label], **size}


def _to_xywh(xyxy_px: NDArray[np.floating]) -> list[list[float]]:
    boxes = np.asarray(xyxy_px, float).reshape(-1, 4)
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1).tolist()


def draw_precision_recall(path: Path, metrics: Mapping[str, Metrics]) -> None:
    """Mean precision over recall at IoU 0.5 on the same images, a curve for each model, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot: it would look for a screen

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for name, one in metrics.items():
        axes.plot(RECALLS, one.precision50, label=f"{name}: AP50 {one.ap50:.3f}, mAP {one.map:.3f}")
    measured = next(iter(metrics.values()))
    title = f"Precision and recall on the {measured.images} val images ({measured.boxes} boxes)"
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("recall (part of the annotated boxes that is found)")
    axes.set_ylabel("precision (part of the found boxes that is right)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", title="mean over the labels; right is IoU 0.5 or more")
    figure.savefig(path, dpi=120)
