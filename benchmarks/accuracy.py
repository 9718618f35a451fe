"""Average precision of every path of the detector on equal scenes, with the tiny model that ships with the package.

Called by `groundcrew bench accuracy`. Must not import backend.
The tiny model has one encoder layer and two decoder layers: rounding has less way to add up than in a full-size one,
so the benchmark of the detector reports differences of scores and boxes of full-size models beside this.
Example: `measure_all(500, threads=2, say=print)["difference"]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from groundcrew.zoo.scenes import ALL_PAIRS, Scene, make_scene
from groundcrew.zoo.tiny_model import TINY_SHAPES
from worker.detectors.base import Detector, ModelSource
from worker.detectors.mmgdino import MMGroundingDino, load
from worker.detectors.precision import choose_dtype
from worker.evaluate import LEAST_SCORE, Judged, Metrics, measure

FIRST_SEED = 600_000  #: of scenes that neither training nor the model's card has seen
NAMES_ASKED = 16
NAMES = tuple(f"{colour} {shape}" for colour, shape in ALL_PAIRS)


def measure_all(scenes: int, threads: int, say: Callable[[str], None]) -> dict[str, object]:
    """AP (COCO's, IoU 0.50 to 0.95) and AP50 of mmdet's modules in 32 bits, of the fast path in 32 bits and in auto.

    Args:
        scenes: pictures of 256 x 256 pixels; each is asked for 16 names, all that it shows among them.
        threads: CPU threads.
        say: told what is done.
    """
    source = ModelSource("tiny-shapes", "1", str(TINY_SHAPES / "config.py"), TINY_SHAPES / "model.safetensors")
    loaded = load(source, "cpu", threads=threads, precision="fp32")
    auto = choose_dtype("auto", torch.device("cpu"))
    paths = {"mmdet": None, "fp32": torch.float32, "fast": auto}
    pictures = [make_scene(FIRST_SEED + number) for number in range(scenes)]
    found: dict[str, object] = {"scenes": scenes, "fast_type": str(auto).removeprefix("torch.")}
    by_path = {}
    for name, dtype in paths.items():
        started_s = time.monotonic()
        by_path[name] = judge(MMGroundingDino(loaded._model, loaded._preprocess, dtype=dtype), pictures)
        say(f"{name}: AP {by_path[name].map:.4f} in {time.monotonic() - started_s:.0f} s")
    for name, metrics in by_path.items():
        found |= {f"{name}_ap": round(metrics.map, 5), f"{name}_ap50": round(metrics.ap50, 5)}
    found["difference"] = round(by_path["fast"].map - by_path["mmdet"].map, 5)
    found["fp32_difference"] = round(by_path["fp32"].map - by_path["mmdet"].map, 5)
    return found


def judge(detector: Detector, pictures: Sequence[Scene]) -> Metrics:
    """Ask for what is there and for as many other names as fill the list."""
    random = np.random.default_rng(0)
    judged = []
    for scene in pictures:
        present = list(dict.fromkeys(scene.names))
        others = random.permutation([name for name in NAMES if name not in present])
        names = tuple(random.permutation([*present, *others[: NAMES_ASKED - len(present)]]).tolist())
        (boxes,) = detector.detect([scene.image], names, score_threshold=LEAST_SCORE, nms_iou=0.7)
        asked = [NAMES.index(name) for name in names]
        judged.append(Judged(scene.boxes_xyxy_px, [NAMES.index(name) for name in scene.names], boxes, asked))
    return measure(judged, NAMES)
