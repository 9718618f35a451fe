"""Fine-tunes a model on a project's annotations, in this process or, on several GPUs, in several.

Called by worker/finetune.py in the trainer process. Must not import backend or groundcrew.
A run that was killed goes on from its last checkpoint when it is called again with the same `work_dir`.
Example: `train(base, Dataset.read(work_dir), work_dir, read_options(directory_of(base)), report=print,
cancelled=lambda: False)` returns `work_dir / "version"`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from contract.errors import TrainingDataError
from worker.detectors.base import ModelSource
from worker.training.options import Progress, TrainOptions, read_options
from worker.training.samples import TrainingData

__all__ = ["Progress", "TrainOptions", "directory_of", "leave_a_core", "read_options", "train"]

VERSION_DIRECTORY = "version"


def train(
    base: ModelSource,
    dataset: TrainingData,
    work_dir: Path,
    options: TrainOptions,
    *,
    report: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    device: str = "auto",
) -> Path:
    """Train, and write a version that loads on its own.

    Args:
        base: what to start from; without a checkpoint from random weights.
        dataset: "train" is learned, "val" says when to stop and which weights to keep.
        work_dir: this run's own directory; holds its checkpoint, and its result when it is done.
        options: see `read_options`.
        report: told about twice a second; raising from it ends the training.
        cancelled: asked before each update.
        device: "auto", "cpu", "cuda:1"...; with several processes they take a GPU each.

    Returns:
        `work_dir / "version"` with config.py, model.safetensors, bert/, loss.png, train.json, and replay.zip and
        recipe.json of the base.

    Raises:
        TrainingDataError: there is nothing to learn.
        JobCancelled: `cancelled` said so; there is no version, the checkpoint stays until `work_dir` is removed.
        OutOfDeviceMemory: not even one image at a time fits.
        ConfigError, LangModelMissing, CheckpointRefused, CheckpointMismatch, PromptError, ImageUnreadable, OSError.
    """
    version = work_dir / VERSION_DIRECTORY
    if version.is_dir():  # it appears whole or not at all
        return version
    if not any(len(sample.category_ids) for sample in dataset.split("train")):
        raise TrainingDataError("No image of the training part shows a box: annotate some more and start again.")
    work_dir.mkdir(parents=True, exist_ok=True)
    if options.processes > 1:
        from worker.training.parallel import train_in_processes

        return train_in_processes(base, dataset, work_dir, options, report=report, cancelled=cancelled, device=device)
    from worker.training.run import Run

    return Run(base, dataset, work_dir, options, device).train(report, cancelled)


def leave_a_core() -> None:
    """Train with one thread less than there are cores: beside another job, threads that wait for each other are slow.

    Measured on two cores: an update of the tiny model took 50 s with two threads beside other jobs, 0.7 s with one.
    """
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))


def directory_of(base: ModelSource) -> Path | None:
    """Where a base keeps its recipe.json and replay.zip: beside its checkpoint."""
    return base.checkpoint.parent if base.checkpoint is not None else None
