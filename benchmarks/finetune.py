"""Fine-tunes the tiny model on three shapes it has never seen, each in colours it has never seen, and measures.

Called by `groundcrew bench finetune`. Must not import backend.
A project has 40 images in which everything is annotated, old shapes too: labels are 64 old names and the new shape.
All figures are on 200 fresh images, with the threshold and the settings that a user gets.
Example: `measure_all(say=print)["new_ap50_after_alone"]`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contract.registry import ModelVersion, Registry
from contract.settings import read_settings
from groundcrew.zoo.detection import Detections
from groundcrew.zoo.metrics import Judged as Rated
from groundcrew.zoo.metrics import Rates, rates_at
from groundcrew.zoo.scenes import ALL_PAIRS, SEEN_PAIRS, Pair, Scene, make_scene
from groundcrew.zoo.shapes import Shape
from worker.dataset import Category
from worker.detectors.base import Boxes, Detector, ModelSource
from worker.detectors.mmgdino import load
from worker.evaluate import LEAST_SCORE, Judged, measure
from worker.models import as_source
from worker.splits import SplitItem, assign_splits
from worker.train import directory_of, read_options, train
from worker.training.samples import Sample, SampleSet

PROJECT_IMAGES, FRESH_IMAGES = 40, 200
#: Of the project's scenes; the fresh ones follow. The recipe was chosen on those of 950,000, 2,000,000, 2,100,000.
FIRST_SEED = 3_210_000
NEW_SHARE = 1 / 3  #: of the objects are of the new shape
NAMES_ASKED = 16  #: in an image, for the old classes
OLD_NAMES = tuple(f"{colour} {shape}" for colour, shape in SEEN_PAIRS)
EVERY_OLD_NAME = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS)
HELD_OUT_NAMES = tuple(name for name in EVERY_OLD_NAME if name not in OLD_NAMES)  #: never shown to the base


def _crescent() -> Shape:
    """A disc without another disc of 0.8 its size that lies to the right."""
    outer, inner = np.linspace(0.22, 1.78, 48) * np.pi, np.linspace(1.72, 0.28, 48) * np.pi
    outside = np.stack((np.cos(outer), np.sin(outer)), 1)
    inside = np.stack((0.42 + 0.8 * np.cos(inner), 0.8 * np.sin(inner)), 1)
    return Shape((np.concatenate((outside, inside)),), 180)


MORE_SHAPES = {"crescent": _crescent()}
MORE_COLOURS = {"magenta": (190, 20, 120), "olive": (112, 112, 20), "teal": (10, 110, 110), "navy": (22, 26, 92)}


@dataclass(frozen=True)
class NewClass:
    """A shape, and the colours that it alone has."""

    shape: str
    colours: tuple[str, ...]


NEW_CLASSES = (
    NewClass("gear", ("purple", "lime")),
    NewClass("cross", ("magenta", "olive")),
    NewClass("crescent", ("teal", "navy")),
)


@dataclass(frozen=True)
class Figures:
    """Of one new class."""

    new_ap50_before: float
    new_ap50_after_alone: float
    new_ap50_after_among_64: float
    new_recall_at_default: float
    new_precision_at_default: float
    old_ap50_before: float
    old_ap50_after: float
    old_ap50_fall: float
    old_ap50_before_seen: float
    old_ap50_after_seen: float
    old_ap50_before_held_out: float
    old_ap50_after_held_out: float
    updates: int  #: of the weights; a busy machine makes fewer before the recipe's time limit
    seconds: float

    @staticmethod
    def worst(several: Sequence[Figures]) -> Figures:
        """The worst of each figure: the highest AP50 before and time, the lowest of the others."""
        rows = [dataclasses.asdict(one) for one in several]
        high = {"new_ap50_before", "old_ap50_fall", "seconds"}
        return Figures(**{name: (max if name in high else min)(row[name] for row in rows) for name in rows[0]})


def measure_all(
    say: Callable[[str], None],
    classes: Sequence[NewClass] = NEW_CLASSES,
    overrides: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The worst of all classes in each figure, and the shapes.

    Args:
        say: told what is being done, and the figures of each class.
        classes: what to learn, each from the tiny model anew.
        overrides: of `read_options`.
    """
    version = Registry(read_settings({})).base
    figures, loads = [], [round(os.getloadavg()[0], 1)]  # of the machine: before, and after each class
    for new in classes:
        say(f"learning {new.shape!r} ...")
        with tempfile.TemporaryDirectory(prefix="groundcrew-bench-") as directory:
            figures.append(measure_class(new, version, Path(directory), overrides or {}))
        say(f"{new.shape}: {dataclasses.asdict(figures[-1])}")
        loads.append(round(os.getloadavg()[0], 1))
    worst = dataclasses.asdict(Figures.worst(figures))
    return {"shapes": [new.shape for new in classes], **worst, "load_average": loads}


def measure_class(new: NewClass, version: ModelVersion, directory: Path, overrides: Mapping[str, object]) -> Figures:
    """One project: before, training, after."""
    base = as_source(version)
    tuned, updates, seconds = tune(base, make_project(new, directory / "images"), directory / "work", overrides)
    fresh = [make_new_scene(new, FIRST_SEED + PROJECT_IMAGES + number) for number in range(FRESH_IMAGES)]
    old = [make_scene(FIRST_SEED + number) for number in range(FRESH_IMAGES)]
    before, after = Looker(load(base, "cpu"), version), Looker(load(tuned, "cpu"), version)
    alone, among = (lambda scene: [new.shape]), (lambda scene: [*OLD_NAMES, new.shape])
    found = after.find(fresh, among)
    rates = rate(found, new, version.score_threshold)
    old_found = {"before": before.find(old, ask_sixteen), "after": after.find(old, ask_sixteen)}
    old_ap50 = {when: ap50(one, EVERY_OLD_NAME) for when, one in old_found.items()}
    return Figures(
        new_ap50_before=max(ap50(before.find(fresh, ask), [new.shape]) for ask in (alone, among)),
        new_ap50_after_alone=ap50(after.find(fresh, alone), [new.shape]),
        new_ap50_after_among_64=ap50(found, [new.shape]),
        new_recall_at_default=round(rates.recall, 4),
        new_precision_at_default=round(rates.precision, 4),
        old_ap50_before=old_ap50["before"],
        old_ap50_after=old_ap50["after"],
        old_ap50_fall=round(old_ap50["before"] - old_ap50["after"], 4),
        old_ap50_before_seen=ap50(old_found["before"], OLD_NAMES),
        old_ap50_after_seen=ap50(old_found["after"], OLD_NAMES),
        old_ap50_before_held_out=ap50(old_found["before"], HELD_OUT_NAMES),
        old_ap50_after_held_out=ap50(old_found["after"], HELD_OUT_NAMES),
        updates=updates,
        seconds=round(seconds, 1),
    )


def tune(
    base: ModelSource, project: SampleSet, work_dir: Path, overrides: Mapping[str, object]
) -> tuple[ModelSource, int, float]:
    """The fine-tuned model, its updates, and how many seconds it took from annotations to a directory that loads."""
    started_s = time.monotonic()
    options = read_options(directory_of(base), overrides)
    version = train(
        base, project, work_dir, options, report=lambda progress: None, cancelled=lambda: False, device="cpu"
    )
    seconds = time.monotonic() - started_s
    files = {"config": str(version / "config.py"), "checkpoint": version / "model.safetensors", "lang_model": None}
    updates = json.loads((version / "train.json").read_text(encoding="utf-8"))["iterations"]
    return dataclasses.replace(base, **files), updates, seconds


def make_new_scene(new: NewClass, seed: int) -> Scene:
    """A scene in which each object is of the new shape with a chance of `NEW_SHARE`."""
    times = round(len(SEEN_PAIRS) * NEW_SHARE / (1 - NEW_SHARE) / len(new.colours))
    pairs: list[Pair] = [*SEEN_PAIRS, *[(colour, new.shape) for colour in new.colours] * times]
    return make_scene(seed, pairs=pairs, more_shapes=MORE_SHAPES, more_colours=MORE_COLOURS)


def name_of(pair: Pair) -> str:
    """A label of the project: colour and shape of an old object, the shape alone of a new one."""
    return " ".join(pair) if pair in ALL_PAIRS else pair[1]


def make_project(new: NewClass, directory: Path) -> SampleSet:
    """40 images as PNG files, all annotated, split as an export would."""
    directory.mkdir(parents=True)
    names = [*OLD_NAMES, new.shape]
    categories = [Category(number, name, (name,)) for number, name in enumerate(names, start=1)]
    samples = []
    for number in range(PROJECT_IMAGES):
        scene = make_new_scene(new, FIRST_SEED + number)
        path = directory / f"{number}.png"
        Image.fromarray(scene.image).save(path)
        ids = [1 + names.index(name_of(pair)) for pair in scene.pairs]
        samples.append(Sample(path, scene.boxes_xyxy_px, ids))
    items = [SplitItem(number, str(number), frozenset(one.category_ids)) for number, one in enumerate(samples)]
    splits = assign_splits(items)
    parts = {part: [one for number, one in enumerate(samples) if splits[number] == part] for part in ("train", "val")}
    return SampleSet(categories, parts["train"], parts["val"])


Ask = Callable[[Scene], Sequence[str]]


def ask_sixteen(scene: Scene) -> list[str]:
    """What is there and other old names; equal scenes get equal lists."""
    random = np.random.default_rng(len(scene.pairs))
    others = [name for name in EVERY_OLD_NAME if name not in scene.names]
    names = [*dict.fromkeys(scene.names), *random.permutation(others)]
    return random.permutation(names[:NAMES_ASKED]).tolist()


Found = list[tuple[Scene, list[str], Boxes]]


@dataclass(frozen=True)
class Looker:
    """A model with the settings of its version."""

    detector: Detector
    version: ModelVersion

    def find(self, scenes: Sequence[Scene], ask: Ask) -> Found:
        """The boxes of each scene, with low scores too."""
        found = []
        for scene in scenes:
            names = list(ask(scene))
            boxes = self.detector.detect(
                [scene.image], tuple(names), score_threshold=LEAST_SCORE, nms_iou=self.version.nms_iou
            )
            found.append((scene, names, boxes[0]))
        return found


def ap50(found: Found, wanted: Sequence[str]) -> float:
    """Mean over the wanted names."""
    names = list(dict.fromkeys([*EVERY_OLD_NAME, *wanted]))
    judged = []
    for scene, asked, boxes in found:
        shown = [place for place, pair in enumerate(scene.pairs) if name_of(pair) in wanted]
        truth = [names.index(name_of(scene.pairs[place])) for place in shown]
        judged.append(Judged(scene.boxes_xyxy_px[shown], truth, boxes, [names.index(name) for name in asked]))
    by_name = measure(judged, names).per_class_ap50
    return round(float(np.mean([by_name[name] for name in wanted if name in by_name])), 4)


def rate(found: Found, new: NewClass, threshold: float) -> Rates:
    """Precision and recall of the new class, whatever else was asked for."""
    rated = []
    for scene, names, boxes in found:
        number = names.index(new.shape)
        ours = boxes.labels == number
        truth = scene.boxes_xyxy_px[[pair[1] == new.shape for pair in scene.pairs]]
        shown = Detections(boxes.xyxy_px[ours], boxes.scores[ours], boxes.labels[ours])
        rated.append(Rated(names, truth, np.full(len(truth), number, np.int64), shown))
    return rates_at(rated, threshold)
