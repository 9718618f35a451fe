"""Our detector against mmdet's DetInferencer and transformers' model: one image, equal weights, turn by turn.

Called by `groundcrew bench detector`. Must not import backend.
Every contender is a process of its own (detector_contenders.py) that waits for its turn, so no two ever compute at
the same time, and what slows the machine down for a while slows down all of them.
Example: `measure("swin-t", (800, 1066), device="cpu", threads=2, rounds=5, labels=0, say=print)["ratio"]`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detector_contenders import Found, Job
from groundcrew.zoo.scenes import ALL_PAIRS, make_scene
from groundcrew.zoo.tiny_model import TINY_SHAPES
from worker.detectors import deform_attn
from worker.detectors.base import ModelSource
from worker.detectors.configs import find_config, prepare_for_inference, read_config
from worker.detectors.mmgdino import load
from worker.detectors.prompts import encode_prompts, text_limit
from worker.models import SPINS

REPOSITORY = Path(__file__).resolve().parent.parent
FULL_SIZE = {
    "swin-t": "mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365",
    "swin-l": "mm_grounding_dino/grounding_dino_swin-l_pretrain_all",
}
THREE_NAMES = ("red circle", "blue square", "green star")
COMPARED_BOXES = 100  #: the best ones; the last of 300 tie with those that were not chosen
SHAKEN = ("sampling_offsets", "attention_weights", "reg_branches")  #: start as zero, which would hide differences
SHAKE = 0.02
RANDOM_GAMMA = 0.1  #: weight of fusion, 1e-4 at the start of a training

Say = Callable[[str], None]


@dataclass
class Contender:
    """A process that waits for orders."""

    kind: str
    process: subprocess.Popen[str]

    def order(self, what: list[str] | str) -> float | str:
        """Seconds of one image with these names, or, for a path, that the last result was written there."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> float | str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.kind} ended with code {self.process.wait()}: see what it printed")
        return json.loads(line)

    def result(self, folder: Path) -> Found:
        path = folder / f"{self.kind}.npz"
        self.order(str(path))
        return Found(**np.load(path))


@contextmanager
def start(kind: str, job_path: Path, threads: int) -> Iterator[Contender]:
    """A contender that is ready; it ends with the block."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    if kind.startswith("ours"):
        env |= SPINS  # as in a worker
    command = [sys.executable, "-m", "benchmarks.detector_contenders", kind, str(job_path)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, text=True
        ) as process,
    ):
        contender = Contender(kind, process)
        try:
            contender.answer()
            yield contender
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read().decode(errors='replace')[-2000:]}") from error
        finally:
            process.stdin and process.stdin.close()


def measure(
    config: str,
    size_px: tuple[int, int],
    *,
    device: str,
    threads: int,
    rounds: int,
    labels: int,
    rivals: Sequence[str],
    say: Say,
) -> dict[str, object]:
    """Medians over `rounds`, ratios of medians, and how far our boxes are from mmdet's.

    Args:
        config: "tiny", a key of `FULL_SIZE`, or what CONFIG_FILE may be.
        size_px: height and width of the image, before the model's own resizing.
        labels: also time this many names at once, in our best mode; 0 for not.
        rivals: kinds beside mmdet, such as "transformers-fp32".
    """
    kinds = ["mmdet", "ours-fp32", "ours-best", *rivals]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = _write_job(Path(folder), config, size_px, device, threads)
        names = json.loads(path.read_text())["names"]
        contenders = []
        for kind in kinds:
            say(f"loading {kind}")
            contenders.append(stack.enter_context(start(kind, path, threads)))
        seconds = _take_turns(contenders, names, rounds, say)
        found = {one.kind: one.result(Path(folder)) for one in contenders[:3]}
        of_labels = _measure_labels(contenders[2], path, labels, rounds) if labels else {}
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "config": config,
        "device": device,
        "ours_s": round(medians["ours-best"], 3),
        "mmdet_s": round(medians["mmdet"], 3),
        "ratio": round(medians["mmdet"] / medians["ours-best"], 2),
        **_differences(found["ours-best"], found["mmdet"], ""),
        "fp32_s": round(medians["ours-fp32"], 3),
        "fp32_ratio": round(medians["mmdet"] / medians["ours-fp32"], 2),
        **_differences(found["ours-fp32"], found["mmdet"], "fp32_"),
        **{f"{kind.replace('-', '_')}_s": round(medians[kind], 3) for kind in rivals},
        **of_labels,
        "mode": "auto",
        "size_px": list(size_px),
        "threads": threads,
        "rounds": rounds,
        "mmcv_compiled_op": not deform_attn.install(),
    }


def _take_turns(contenders: list[Contender], names: list[str], rounds: int, say: Say) -> dict[str, list[float]]:
    for contender in contenders:
        contender.order(names)  # the first image pays for what is made once
    seconds: dict[str, list[float]] = {one.kind: [] for one in contenders}
    for number in range(rounds):
        for contender in contenders:
            seconds[contender.kind].append(float(contender.order(names)))
        say(f"round {number + 1}: " + ", ".join(f"{kind} {values[-1]:.2f} s" for kind, values in seconds.items()))
    return seconds


def _measure_labels(ours: Contender, job_path: Path, labels: int, rounds: int) -> dict[str, object]:
    """Time of many names, against as many times that of the names that fill one caption."""
    names = make_names(labels)
    job = Job(**json.loads(job_path.read_text()))
    model = load(ModelSource("bench", "1", job.config, None, Path(job.lang_model)), "cpu")._model
    captions = encode_prompts(model, tuple(names), text_limit(model))
    first = [names[number] for number in captions[0].prompt_ids.tolist()]
    for some in (names, first):
        ours.order(some)
    pairs = [(float(ours.order(names)), float(ours.order(first))) for _ in range(rounds)]
    whole, one = (statistics.median(values) for values in zip(*pairs, strict=True))
    return {
        "labels": labels,
        "labels_s": round(whole, 3),
        "captions": len(captions),
        "one_caption_s": round(one, 3),
        "labels_to_captions": round(whole / (one * len(captions)), 2),
    }


def make_names(count: int) -> list[str]:
    """Distinct names of two or three words."""
    sizes = ("", "tiny ", "small ", "large ", "huge ")
    return [f"{size}{colour} {shape}" for size in sizes for colour, shape in ALL_PAIRS][:count]


def _differences(ours: Found, theirs: Found, prefix: str) -> dict[str, float]:
    """Of scores, rank by rank; of boxes, each of our best ones with the nearest of the same name."""
    count = min(len(ours.scores), len(theirs.scores))
    score = float(np.abs(ours.scores[:count] - theirs.scores[:count]).max())
    ious = []
    for box, label in zip(ours.xyxy_px[:COMPARED_BOXES], ours.labels[:COMPARED_BOXES], strict=True):
        ious.append(_iou(box, theirs.xyxy_px[theirs.labels == label]).max(initial=0.0))
    named = {"max_score_diff": score, "min_box_iou": min(ious), "median_box_iou": statistics.median(ious)}
    return {prefix + name: float(f"{value:.4g}") for name, value in named.items()}


def _iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    areas = np.prod(box[2:] - box[:2]) + (others[:, 2:] - others[:, :2]).prod(1)
    return common / np.maximum(areas - common, 1e-9)


def _write_job(folder: Path, config: str, size_px: tuple[int, int], device: str, threads: int) -> Path:
    """Config, weights, language model and image as files."""
    tiny = config == "tiny"
    lang_model = TINY_SHAPES / "bert" if tiny else _write_bert(folder / "bert")
    found = find_config(str(TINY_SHAPES / "config.py") if tiny else FULL_SIZE.get(config, config))
    prepared = prepare_for_inference(read_config(found), lang_model)
    source = ModelSource("bench", "1", str(found), TINY_SHAPES / "model.safetensors" if tiny else None, lang_model)
    torch.manual_seed(0)
    model = load(source, "cpu")._model
    if not tiny:
        _shake(model)
    prepared.dump(folder / "config.py")
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "weights.pth")
    np.save(folder / "image.npy", make_scene(1, size_px=size_px).image)
    job = Job(
        config=str(folder / "config.py"),
        weights=str(folder / "weights.pth"),
        lang_model=str(lang_model),
        image=str(folder / "image.npy"),
        names=list(THREE_NAMES),
        device=device,
        threads=threads,
        largest_edge_px=1333,
    )
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    return folder / "job.json"


def _shake(model: torch.nn.Module) -> None:
    """Random weights where mmengine starts with zeros, so that every part has a say."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(part in name for part in SHAKEN):
                value += SHAKE * torch.randn_like(value)
            elif "gamma_" in name:
                value.fill_(RANDOM_GAMMA)


def _write_bert(folder: Path) -> Path:
    """bert-base with random weights, and the words of the tiny model."""
    from transformers import BertConfig, BertModel

    folder.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(TINY_SHAPES / "bert" / name, folder / name)
    words = len((folder / "vocab.txt").read_text().splitlines())
    BertModel(BertConfig(vocab_size=words), add_pooling_layer=False).save_pretrained(folder)
    return folder
