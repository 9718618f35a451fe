"""Measure the tiny model on fresh scenes and write its card: `python -m groundcrew.zoo.evaluate_tiny --write`.

Called by hand after train_tiny.py. Prints all figures as one line of JSON.
Must not import backend.
Example: `python -m groundcrew.zoo.evaluate_tiny --scenes 60` for a quick look.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from groundcrew.zoo.detection import NMS_IOU, detect
from groundcrew.zoo.metrics import Judged, Rates, ap50_by_name, rates_at
from groundcrew.zoo.scenes import ALL_PAIRS, COLOURS, HELD_OUT_PAIRS, Pair, Scene, make_scene
from groundcrew.zoo.shapes import SHAPES
from groundcrew.zoo.tiny_model import TINY_SHAPES, Stage, load_tiny, read_stages

FIRST_SEED = 700_000  # of the scenes that figures are measured on
FIRST_CHOICE_SEED = 800_000  # of the scenes that the default threshold is chosen on
CHOICE_SCENES = 150
THRESHOLDS = [number / 100 for number in range(20, 61, 2)]
ALL_NAMES = [f"{colour} {shape}" for colour, shape in ALL_PAIRS]
HELD_OUT_NAMES = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}

Ask = Callable[[np.random.Generator, Scene], Sequence[str]]
"""Chooses the names to look for in a scene."""


def ask_present_and(absent: int) -> Ask:
    """The names of what is there and so many that are not."""

    def ask(random: np.random.Generator, scene: Scene) -> list[str]:
        others = [name for name in ALL_NAMES if name not in scene.names]
        names = [*dict.fromkeys(scene.names), *random.permutation(others)[:absent].tolist()]
        return random.permutation(names).tolist()

    return ask


def ask_sixteen(random: np.random.Generator, scene: Scene) -> Sequence[str]:
    return ask_present_and(16 - len(set(scene.names)))(random, scene)


def ask_all(random: np.random.Generator, scene: Scene) -> Sequence[str]:
    return random.permutation(ALL_NAMES).tolist()


def ask_shapes(random: np.random.Generator, scene: Scene) -> Sequence[str]:
    return random.permutation(list(SHAPES)).tolist()


def ask_colours(random: np.random.Generator, scene: Scene) -> Sequence[str]:
    return [f"{colour} object" for colour in random.permutation(list(COLOURS))]


def judge(model: torch.nn.Module, scenes: Iterable[Scene], ask: Ask, name_of: Callable[[Pair], str]) -> list[Judged]:
    """Look for names in every scene; `name_of` tells by which name an object counts as found."""
    random = np.random.default_rng(0)
    judged = []
    for scene in scenes:
        names = list(ask(random, scene))
        labels = np.array([names.index(name_of(pair)) for pair in scene.pairs], np.int64)
        judged.append(Judged(names, scene.boxes_xyxy_px, labels, detect(model, scene.image, names)))
    return judged


def full_name(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]}"


def mean_ap50(pictures: Sequence[Judged], held_out: bool | None = None) -> float:
    """Mean over names; only those held out of training, only the others, or all."""
    by_name = ap50_by_name(pictures)
    chosen = [value for name, value in by_name.items() if held_out is None or (name in HELD_OUT_NAMES) == held_out]
    return round(float(np.mean(chosen)), 4)


def choose_threshold(model: torch.nn.Module) -> float:
    """The score at which precision and recall are equally far from 1 on scenes kept for this choice."""
    scenes = [make_scene(FIRST_CHOICE_SEED + number) for number in range(CHOICE_SCENES)]
    pictures = judge(model, scenes, ask_present_and(3), full_name)
    rates = {threshold: rates_at(pictures, threshold) for threshold in THRESHOLDS}
    return max(THRESHOLDS, key=lambda threshold: min(rates[threshold].precision, rates[threshold].recall))


def measure(model: torch.nn.Module, scene_count: int, threshold: float) -> dict[str, float]:
    """All figures of the card."""
    scenes = [make_scene(FIRST_SEED + number) for number in range(scene_count)]
    large_scenes = [make_scene(FIRST_SEED + number, size_px=(480, 640)) for number in range(scene_count // 3)]
    large = judge(model, large_scenes, ask_sixteen, full_name)
    sixteen = judge(model, scenes, ask_sixteen, full_name)
    everything = judge(model, scenes, ask_all, full_name)
    few = rates_at(judge(model, scenes, ask_present_and(3), full_name), threshold)
    return {
        "ap50_16_names_seen": mean_ap50(sixteen, held_out=False),
        "ap50_16_names_held_out": mean_ap50(sixteen, held_out=True),
        "ap50_80_names_seen": mean_ap50(everything, held_out=False),
        "ap50_80_names_held_out": mean_ap50(everything, held_out=True),
        "ap50_shape_words": mean_ap50(judge(model, scenes, ask_shapes, lambda pair: pair[1])),
        "ap50_colour_words": mean_ap50(judge(model, scenes, ask_colours, lambda pair: f"{pair[0]} object")),
        "ap50_16_names_640x480": mean_ap50(large),
        **_describe(few, "present_and_3_absent"),
        **_describe(rates_at(sixteen, threshold), "16_names"),
        **_describe(rates_at(everything, threshold), "80_names"),
        **_describe(rates_at(large, threshold), "16_names_640x480"),
        "milliseconds_an_image": round(measure_latency_ms(model, scenes[:40]), 1),
    }


def _describe(rates: Rates, prompt: str) -> dict[str, float]:
    figures = {"precision": rates.precision, "recall": rates.recall, "mean_iou": rates.mean_iou}
    return {f"{figure}_{prompt}": round(value, 4) for figure, value in figures.items()}


def measure_latency_ms(model: torch.nn.Module, scenes: Sequence[Scene]) -> float:
    """Median time for one picture of 256 x 256 and 16 names, on one thread."""
    random = np.random.default_rng(0)
    times_ms = []
    for scene in scenes:
        names = ask_sixteen(random, scene)
        started = time.perf_counter()
        detect(model, scene.image, names)
        times_ms.append(1000 * (time.perf_counter() - started))
    return statistics.median(times_ms)


def make_card(figures: dict[str, float], threshold: float, scene_count: int, stages: list[Stage]) -> dict[str, object]:
    """What a user must know about the model, as written beside it."""
    packages = ("torch", "mmdet", "mmengine", "mmcv-lite", "transformers", "numpy")
    return {
        "name": "tiny-shapes",
        "version": "1",
        "text": "A demo and test model for a world of shapes, not a photo detector.",
        "limits": "Knows ten colours and eight shapes of 24 to 110 pixels in pictures with a short side of 256. "
        "Other words find nothing, or by mistake something; photographs are outside of what it learned.",
        "made": "Trained from nothing on generated scenes, no photograph and no pretrained weights: train_tiny.py.",
        "licence": "Apache-2.0",
        "score_threshold": threshold,
        "nms_iou": NMS_IOU,
        "colours": list(COLOURS),
        "shapes": list(SHAPES),
        "held_out": sorted(HELD_OUT_NAMES),
        "training": stages,
        "figures": {"scenes": scene_count, "first_seed": FIRST_SEED, **figures},
        "made_with": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY_SHAPES)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="write card.json beside the model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_tiny(options.model)
    threshold = choose_threshold(model)
    figures = measure(model, options.scenes, threshold)
    print(json.dumps({"score_threshold": threshold, "scenes": options.scenes, **figures}))
    if options.write:
        stages = read_stages(options.model / "model.safetensors")
        card = make_card(figures, threshold, options.scenes, stages)
        (options.model / "card.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
