"""Writes what a training made: a directory that loads on its own, and a picture of the loss.

Called by worker/train.py. Must not import backend or groundcrew.
The directory appears whole or not at all. config.py is the base's, flattened, reduced to what inference needs, with
the language model beside it, so that plain mmdet can load it too.
Example: `write_version(work_dir / "version", config, state, half=True, base_directory=..., train_log={...})`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from worker.replay import REPLAY_FILE
from worker.training.options import RECIPE_FILE

FEW = 30  #: updates that are shown as points too
INFERENCE_SECTIONS = ("default_scope", "model", "test_pipeline", "test_dataloader", "visualizer")
BERT_PATTERNS = ("*.json", "vocab.txt")
BERT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BERT_BESIDE = "{{ fileDirname }}/bert"  #: mmengine puts in the directory of the config file


def write_version(
    target: Path,
    config: Config,
    state: Mapping[str, Tensor],
    *,
    half: bool,
    base_directory: Path | None,
    losses: Sequence[tuple[int, float]],
    train_log: Mapping[str, object],
) -> Path:
    """Write config.py, model.safetensors, bert/, replay.zip and recipe.json of the base, loss.png and train.json.

    Args:
        target: the directory to make; one left over from a killed trainer is replaced.
        config: from `prepare_for_inference`: its language model is a local directory.
        state: weights to store.
        half: in half precision, as the base's are.
        base_directory: where the base keeps replay.zip and recipe.json, which go along for the next fine-tune.
        losses: iteration and loss.
        train_log: for train.json.

    Raises:
        OSError: the disk is full, or the directory cannot be written; nothing is left under `target`.
    """
    unfinished = target.with_name(target.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_model(unfinished, config, state, half=half)
    for name in (REPLAY_FILE, RECIPE_FILE):
        if base_directory is not None and (base_directory / name).is_file():
            shutil.copyfile(base_directory / name, unfinished / name)
    draw_losses(unfinished / "loss.png", losses)
    (unfinished / "train.json").write_text(json.dumps(train_log, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)
    return target


def write_model(directory: Path, config: Config, state: Mapping[str, Tensor], *, half: bool) -> None:
    """What detecting needs: config.py, bert/ and model.safetensors. Arguments and errors as in `write_version`."""
    directory.mkdir(parents=True)
    write_config(directory / "config.py", config)
    copy_bert(Path(config.model.language_model.name), directory / "bert")
    write_weights(directory / "model.safetensors", state, half=half)


def write_config(path: Path, config: Config) -> None:
    """One file without `_base_`, with a relative language model."""
    kept = Config({name: config[name] for name in INFERENCE_SECTIONS if name in config})
    kept = kept.copy()
    kept.model = {**config.model, "language_model": {**config.model.language_model, "name": BERT_BESIDE}}
    path.write_text(kept.pretty_text)


def copy_bert(source: Path, target: Path) -> None:
    """Tokenizer, configuration and one file of weights: a download holds them in several formats."""
    target.mkdir()
    for pattern in BERT_PATTERNS:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
    weights = next((source / name for name in BERT_WEIGHTS if (source / name).is_file()), None)
    for file in [weights] if weights else source.glob("*model*"):  # otherwise in shards
        shutil.copyfile(file, target / file.name)


def write_weights(path: Path, state: Mapping[str, Tensor], *, half: bool) -> None:
    """Whole or not at all, on the CPU, each tensor by itself. Raises OSError."""
    dtype = torch.float16 if half else torch.float32
    plain = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous().clone()
        for name, value in state.items()
    }
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(plain, unfinished, metadata={"format": "pt"})
    except SafetensorError as error:  # it hides the number of the system's error in its text
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else errno.EIO, str(error), str(path)) from error
    os.replace(unfinished, path)


def draw_losses(path: Path, losses: Sequence[tuple[int, float]]) -> None:
    """The loss over the iterations, and its mean over about twenty of them."""
    from matplotlib.figure import Figure  # not pyplot: it would look for a screen

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    iterations, values = [entry[0] for entry in losses], [entry[1] for entry in losses]
    marker = "." if len(losses) < FEW else ""  # one or two updates make no line
    axes.plot(iterations, values, color="0.75", linewidth=0.8, marker=marker, label="each update")
    axes.plot(iterations, smooth(values), color="tab:blue", label="moving mean (about 20 updates)")
    axes.set(xlabel="iteration (updates of the weights)", ylabel="loss (sum of all terms, no unit)", ylim=(0, None),
             title="Loss on the images to learn from")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def smooth(values: Sequence[float], memory: float = 0.95) -> list[float]:
    """Exponential mean that starts at the first value."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else memory * means[-1] + (1 - memory) * value)
    return means
