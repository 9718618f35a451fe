"""Whether a candidate is promoted: weighted mAP on val must rise by more than chance explains, little may be lost.

Called by worker/judgement.py and benchmarks/promotion.py. Must not import backend, groundcrew, torch or mmdet.
Chance is measured by a paired bootstrap: as if other images like these had been annotated, drawn from these.
Example: `decide(Findings(evaluate(base, val, categories)), Findings(evaluate(new, val, categories))).promoted`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from contract.cards import Verdict
from worker.evaluate import Metrics
from worker.matches import Matches, mean_ap
from worker.splits import ENOUGH_VAL

SEED = 20  #: of the drawing: the same measurements give the same decision everywhere
REMEDY = "Annotate more images and train again, or promote it by hand (`groundcrew models promote`)."


@dataclass(frozen=True)
class Rule:
    """When a candidate is promoted; stored in its card."""

    confidence: float = 0.9  #: that the rise of weighted mAP on val is no chance; one-sided
    fewest_images: int = ENOUGH_VAL  #: with boxes on val; fewer must agree, see `least_rise`
    resamples: int = 500
    enough_images: int = 20  #: with fewer, people are told that the decision rests on few
    most_fallen: float = 0.02  #: mAP on val may fall by this much, so that labels with few boxes are not given up
    most_forgetting: float = 0.02  #: AP50 on the base's held-out images may fall by this much

    def least_rise(self, images: int) -> float:
        """What weighted mAP must rise by at least: two to four images that agree by chance do so by a little."""
        return 1 / (images + 1) if images < self.fewest_images else 0.0

    def tail(self, images: int) -> float:
        """The share of the resamples below the interval, and of those above it.

        A bootstrap of few images is too narrow; this is the "expanded percentile interval" of T. Hesterberg, "What
        Teachers Should Know About the Bootstrap" (2015). 0, the whole range, where each image is looked at by itself.
        """
        if images < self.fewest_images:
            return 0.0
        widened = math.sqrt(images / (images - 1)) * _student(self.confidence, images - 1)
        return NormalDist().cdf(-widened)

    def describe(self) -> str:
        """For the card."""
        return (
            f"weighted mAP on val, in which each label counts by its annotated boxes, must rise with "
            f"{self.confidence:.0%} confidence (paired bootstrap over the val images); "
            f"with fewer than {self.fewest_images} images, on each of them, and by 1/(images + 1) in all; "
            f"mAP on val, in which all labels count alike, may fall by at most {self.most_fallen:g}; "
            f"AP50 on the base's own held-out images may fall by at most {self.most_forgetting:g}"
        )


def _student(confidence: float, degrees: int) -> float:
    """Quantile of Student's t: Abramowitz and Stegun 26.7.5; within 1 % from 3 degrees of freedom on."""
    z = NormalDist().inv_cdf(confidence)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


@dataclass(frozen=True)
class Findings:
    """What was measured of one model."""

    val: Metrics
    general: Metrics | None = None  #: on the base's held-out images, if it ships any


@dataclass(frozen=True)
class Rise:
    """How much weighted mAP rose on val, and may on other images like these; of few images, how much on each.

    Weighted, because the figure has to move with what people correct. Where a project of 64 known labels adds one, mAP
    hardly does: of ten trainings that took the new label, a third of all boxes, from AP 0.00 to 0.88 or more, mAP rose
    by 0.001 to 0.022 (one was refused as chance), and weighted mAP by 0.22 to 0.33.
    """

    rise: float
    lowest: float
    highest: float
    images: int  #: with boxes
    few: bool  #: too few for a confidence

    def __str__(self) -> str:
        where = "on each of these" if self.few else "on other images like these"
        return f"{where} {self.images}: {self.lowest:+.3f} to {self.highest:+.3f}"

    def to_json(self, rule: Rule) -> dict[str, float | bool]:
        """For the version's card; no confidence where there are too few images for one."""
        figures = {"rise": self.rise, "lowest": self.lowest, "highest": self.highest}
        drawn = {} if self.few else {"confidence": rule.confidence, "resamples": rule.resamples, "seed": SEED}
        images = {"images": self.images, "few_images": self.images < rule.enough_images}
        return {name: round(value, 4) for name, value in figures.items()} | images | drawn


@dataclass(frozen=True)
class Decision:
    """The outcome, with a sentence for people."""

    verdict: Verdict
    reason: str
    evidence: Mapping[str, float | bool]  #: Rise.to_json; empty if nothing could be measured

    @property
    def promoted(self) -> bool:
        return self.verdict == "better"


def measure_rise(base: Matches, candidate: Matches, rule: Rule) -> Rise:
    """The images are drawn with replacement, the same ones for both models, which are matched once.

    Fewer than `rule.fewest_images` are looked at one by one instead.
    """
    images = int(base.shown().sum())
    few = images < rule.fewest_images
    whole, each = np.ones((1, base.images), np.int64), np.eye(base.images, dtype=np.int64)
    times = each if few else _draw(base.images, rule.resamples)
    (rise,), rises = (_weighted(candidate, rows) - _weighted(base, rows) for rows in (whole, times))
    rises = rises[~np.isnan(rises)]  # without those that show nothing
    tail = rule.tail(images)
    lowest, highest = np.quantile(rises, tail, method="lower"), np.quantile(rises, 1 - tail, method="higher")
    return Rise(float(rise), float(lowest), float(highest), images, few)


def _weighted(matches: Matches, times: NDArray[np.int64]) -> NDArray[np.float64]:
    return mean_ap(matches, times, weighted=True)


def _draw(images: int, resamples: int) -> NDArray[np.int64]:
    """(resamples, images) how often each is drawn."""
    return np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), size=resamples)


def decide(base: Findings, candidate: Findings, rule: Rule | None = None) -> Decision:
    """Compare two models that were measured on the same images with the same prompts."""
    rule = rule or Rule()
    if not candidate.val.boxes:
        return Decision("no_boxes", "There is no box on val to measure with: annotate more images.", {})
    rise = measure_rise(base.val.matches, candidate.val.matches, rule)
    change = f"weighted mAP on val went from {base.val.weighted_map:.3f} to {candidate.val.weighted_map:.3f} ({rise})"
    verdict, reason = (
        _doubt(rise, rule)
        or _fallen(base.val.map, candidate.val.map, rule)
        or _forgotten(base.general, candidate.general, rule)
    )
    few = "" if rise.images >= rule.enough_images else f" This rests on few images: {rise.images}."
    return Decision(verdict, change + reason + few, rise.to_json(rule))


def _doubt(rise: Rise, rule: Rule) -> tuple[Verdict, str] | None:
    """Why the rise on val does not suffice, if so."""
    least = rule.least_rise(rise.images)
    if rise.rise <= 0:
        return "not_better", "; it must rise."
    if rise.lowest > 0 and rise.rise >= least:
        return None
    if rise.few:
        return "few_images", (
            f"; where so few images measure, it must rise on each of them, and by {least:.2f} in all. {REMEDY}"
        )
    wanted = f"the lower end must be above 0, with {rule.confidence:.0%} confidence"
    return "chance", f", which may be chance: {wanted}. {REMEDY}"


def _fallen(base: float, candidate: float, rule: Rule) -> tuple[Verdict, str] | None:
    """Why the labels with few boxes speak against it, if they do."""
    if base - candidate <= rule.most_fallen:
        return None
    return "uneven", (
        f", but mAP, in which all labels count alike, went from {base:.3f} to {candidate:.3f}: "
        f"it may fall by {rule.most_fallen:g}. Annotate more of the labels that got worse."
    )


def _forgotten(base: Metrics | None, candidate: Metrics | None, rule: Rule) -> tuple[Verdict, str]:
    """How the base's own held-out images changed."""
    if base is None or candidate is None:
        return "better", "; the base ships no held-out images to check what was forgotten."
    kept = f"AP50 on the base's own held-out images went from {base.ap50:.3f} to {candidate.ap50:.3f}"
    if base.ap50 - candidate.ap50 > rule.most_forgetting:
        return "forgot", f", but {kept}: more than {rule.most_forgetting:g} was forgotten."
    return "better", f"; {kept}."
