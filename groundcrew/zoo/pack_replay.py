"""Packs the tiny model's replay.zip: scenes against forgetting in a fine-tune, and held-out ones to measure it.

Called by hand: `python -m groundcrew.zoo.pack_replay`. What the file means: worker/replay.py.
Must not import torch, mmdet or backend.
Example: `python -m groundcrew.zoo.pack_replay --train 20 --held-out 5 --out small.zip`.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from groundcrew.zoo.prompts import sample_prompt
from groundcrew.zoo.scenes import ALL_PAIRS, SEEN_PAIRS, SHORT_SIDE_PX, Scene, make_scene
from groundcrew.zoo.stream import LONG_PROMPT_CHANCE, MOST_ABSENT, MOST_ABSENT_LONG, TRAINING_SEEDS
from worker.replay import REPLAY_FILE, ReplayItem, write_replay
from worker.training.captions import Caption

TINY_SHAPES = Path(__file__).parent / "tiny-shapes"
TRAIN_IMAGES, HELD_OUT_IMAGES = 300, 100
SQUARE_CHANCE = 0.6
LONG_SIDES_PX = (320, 384, 448, 512)  # multiples of the largest stride: pictures of one size share a forward pass
FIRST_HELD_OUT_SEED = 900_000  # evaluate_tiny.py takes 700,000 and 800,000, the benchmark of fine-tunes 3,210,000
CAPTIONS_AN_IMAGE = 6
HELD_OUT_NAMES = 16  # that are asked for in each image
WEBP_QUALITY = 80  # about 10 kB an image

Packed = tuple[ReplayItem, bytes]


def make_training_items(count: int) -> Iterator[Packed]:
    """Scenes and captions as in the training of the tiny model: pairs that were held out stay held out."""
    random = np.random.default_rng(TRAINING_SEEDS.start)
    for number in range(count):
        seed = int(random.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop))
        scene = make_scene(seed, size_px=_sample_size(random), pairs=SEEN_PAIRS)
        captions = [_sample_caption(random, scene) for _ in range(CAPTIONS_AN_IMAGE)]
        yield _pack(f"train/{number:04}.webp", scene, captions)


def _sample_size(random: np.random.Generator) -> tuple[int, int]:
    """Height and width: as in the training of the tiny model, with fewer different sizes."""
    if random.random() < SQUARE_CHANCE:
        return SHORT_SIDE_PX, SHORT_SIDE_PX
    long_side_px = LONG_SIDES_PX[random.integers(len(LONG_SIDES_PX))]
    return (SHORT_SIDE_PX, long_side_px) if random.random() < 0.6 else (long_side_px, SHORT_SIDE_PX)


def _sample_caption(random: np.random.Generator, scene: Scene) -> Caption:
    most = MOST_ABSENT_LONG if random.random() < LONG_PROMPT_CHANCE else MOST_ABSENT
    prompt = sample_prompt(random, scene.pairs, SEEN_PAIRS, most)
    return Caption(prompt.names, prompt.matches)


def make_held_out_items(count: int) -> Iterator[Packed]:
    """Scenes with all pairs; each asks for what is there among sixteen names."""
    random = np.random.default_rng(FIRST_HELD_OUT_SEED)
    every_name = [f"{colour} {shape}" for colour, shape in ALL_PAIRS]
    for number in range(count):
        scene = make_scene(FIRST_HELD_OUT_SEED + number, pairs=ALL_PAIRS)
        present = list(dict.fromkeys(scene.names))
        absent = [name for name in every_name if name not in present]
        names = random.permutation([*present, *random.permutation(absent)[: HELD_OUT_NAMES - len(present)]]).tolist()
        yield _pack(
            f"held_out/{number:04}.webp", scene, [Caption(names, [[names.index(name)] for name in scene.names])]
        )


def _pack(file: str, scene: Scene, captions: list[Caption]) -> Packed:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return ReplayItem(file, scene.boxes_xyxy_px, captions), buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=TRAIN_IMAGES)
    parser.add_argument("--held-out", type=int, default=HELD_OUT_IMAGES)
    parser.add_argument("--out", type=Path, default=TINY_SHAPES / REPLAY_FILE)
    options = parser.parse_args()
    write_replay(
        options.out, make_training_items(options.train), make_held_out_items(options.held_out), closed_world=True
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
