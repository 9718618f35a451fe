"""How often the rule of worker/decision.py publishes luck, and how often it misses a better model: a simulation.

Run by hand: `python -m benchmarks.promotion`. Must not import backend, torch.
Two made-up detectors look at the same made-up images; every candidate is equally good, or better by a known skill.
Example: `count_promoted(images=20, gain=0.0, pairs=200)` -> Counted(rise=0.002, old=0.51, new=0.1)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.decision import Findings, Rule, decide, measure_rise
from worker.detectors.base import Boxes
from worker.evaluate import Judged, measure

LABELS = ("a", "b", "c")
BOXES, WRONG = 4.0, 4.0  #: annotated in an image, and found where nothing is, on average
SKILL = 0.5  #: of the base, as log odds of finding a box in an image of medium hardness: it finds 60 %
GAINS = (0.0, 0.5, 1.0, 2.5)  #: of a candidate over the base, in the same unit
SIZES = (1, 2, 3, 4, 5, 10, 20, 100)
FIRST_SEED = 7


class Image(NamedTuple):
    """What is annotated, and how hard it is for any detector."""

    xyxy_px: NDArray[np.float64]
    labels: NDArray[np.int64]
    hardness: float  #: normal: some images are much harder than others, as in real projects


class Counted(NamedTuple):
    """Shares of the pairs."""

    rise: float  #: mean, of mAP
    old: float  #: any rise is promoted
    new: float


def make_image(dice: np.random.Generator) -> Image:
    """With at least one box."""
    count = max(1, dice.poisson(BOXES))
    return Image(_draw_boxes(dice, count), dice.integers(len(LABELS), size=count), dice.normal())


def look(dice: np.random.Generator, image: Image, skill: float) -> Judged:
    """What a detector finds: some of the boxes, a little beside them, surer than what it sees where nothing is."""
    hit = dice.random(len(image.labels)) < 1 / (1 + np.exp(image.hardness - skill))
    found, wrong = image.xyxy_px[hit], _draw_boxes(dice, dice.poisson(WRONG))
    found = found + dice.normal(0, 0.06, found.shape) * np.tile(found[:, 2:] - found[:, :2], 2)
    scores = np.concatenate((dice.beta(4, 2, len(found)), dice.beta(2, 5, len(wrong))))
    labels = np.concatenate((image.labels[hit], dice.integers(len(LABELS), size=len(wrong))))
    order = np.argsort(-scores)
    boxes = Boxes(np.concatenate((found, wrong))[order].astype(np.float32), scores[order], labels[order])
    return Judged(image.xyxy_px, image.labels.tolist(), boxes, range(len(LABELS)))


def _draw_boxes(dice: np.random.Generator, count: int) -> NDArray[np.float64]:
    corner = dice.uniform(0, 400, (count, 2))
    return np.concatenate((corner, corner + dice.uniform(30, 120, (count, 2))), axis=1)


def find(dice: np.random.Generator, images: Sequence[Image], skill: float) -> Findings:
    """What a detector of this skill is measured as."""
    return Findings(measure([look(dice, image, skill) for image in images], LABELS))


def count_promoted(images: int, gain: float, pairs: int) -> Counted:
    """Of so many pairs of base and candidate, each with val images of its own."""
    rows = []
    for pair in range(pairs):
        dice = np.random.default_rng([FIRST_SEED, images, pair])
        shown = [make_image(dice) for _ in range(images)]
        base, candidate = (find(dice, shown, skill) for skill in (SKILL, SKILL + gain))
        rise = candidate.val.map - base.val.map
        rows.append((rise, rise > 0, decide(base, candidate).promoted))
    return Counted(*(float(column) for column in np.mean(rows, axis=0)))


def time_bootstrap(images: int, labels: int = 16, boxes_an_image: int = 300) -> float:
    """Processor seconds of one decision."""
    dice = np.random.default_rng(FIRST_SEED)
    judged = []
    for _ in range(images):
        image = Image(_draw_boxes(dice, 6), dice.integers(labels, size=6), 0.0)
        more, scores = _draw_boxes(dice, boxes_an_image), -np.sort(-dice.random(boxes_an_image + 6))
        xyxy_px = np.concatenate((image.xyxy_px, more)) + dice.normal(0, 3, (len(scores), 4))
        found = np.append(image.labels, dice.integers(labels, size=boxes_an_image))
        order = dice.permutation(len(scores))
        boxes = Boxes(xyxy_px[order].astype(np.float32), scores, found[order])
        judged.append(Judged(image.xyxy_px, image.labels.tolist(), boxes, range(labels)))
    matches = measure(judged, [str(label) for label in range(labels)]).matches
    started_s = time.process_time()
    measure_rise(matches, matches, Rule())
    return time.process_time() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    pairs = parser.parse_args().pairs
    print(f"500 val images, 16 labels, 306 boxes an image: {time_bootstrap(500):.2f} s of processor time a decision")
    print("| better by | val images | mean rise of mAP | promoted before | promoted now |\n|---|---|---|---|---|")
    for gain in GAINS:
        for images in SIZES:
            one = count_promoted(images, gain, pairs)
            print(f"| {gain:g} | {images} | {one.rise:+.3f} | {one.old:.1%} | {one.new:.1%} |", flush=True)


if __name__ == "__main__":
    main()
