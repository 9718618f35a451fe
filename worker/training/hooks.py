"""What happens between two updates: the learning rate, progress and cancelling, checkpoints, measuring on val.

Called by mmengine's Runner; worker/train.py puts them together. Must not import backend or groundcrew.
`RunState` is what they share, and what a checkpoint keeps beside weights and optimiser.
Example: `custom_hooks=[Schedule(options, state), Reporter(...), Saver(...), Validator(...)]`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mmengine.dist
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from contract.errors import JobCancelled
from worker.evaluate import Metrics
from worker.training.options import Progress, TrainOptions

LOSSES_FILE = "losses.jsonl"
CHECKPOINT_FILE = "last.pth"
REPORT_EVERY_S = 0.5
NOISE = 0.02  #: of weighted mAP on val
LOSS_MEMORY = 0.95  #: the loss that is shown is a mean over about the last twenty updates


@dataclass
class RunState:
    """Where a run stands; `elapsed_s` counts all trainers that worked on it."""

    elapsed_s: float = 0.0
    loss: float | None = None
    map: float | None = None  #: the latest measured on val
    weighted_map: float | None = None
    best_weighted_map: float | None = None
    worse_in_a_row: int = 0
    _since: float = field(default_factory=time.monotonic, repr=False)

    def tick(self) -> None:
        """Add the time since the last call."""
        now = time.monotonic()
        self.elapsed_s, self._since = self.elapsed_s + now - self._since, now

    def to_meta(self) -> dict[str, float | int | None]:
        """Plain numbers for a checkpoint."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "_since"}

    def restore(self, meta: dict[str, float | int | None]) -> None:
        """Go on from a checkpoint."""
        for name, value in meta.items():
            setattr(self, name, value)


class Schedule(Hook):
    """Warm-up, then half a cosine down to zero, by iterations or by time, whichever is further.

    A machine that is slower than expected thus still ends with small steps, within the time limit.
    """

    def __init__(self, options: TrainOptions, state: RunState) -> None:
        self._options, self._state = options, state

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self._state.tick()
        factor = rate_factor(self._part(runner), self._options.warm_up_part)
        for group in runner.optim_wrapper.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        self._state.tick()
        # The clocks of several processes differ; all must stop at the same update, or one waits for ever.
        over = [bool(self._options.time_limit_s) and self._state.elapsed_s >= self._options.time_limit_s]
        mmengine.dist.broadcast_object_list(over)
        if over[0]:
            runner.train_loop.stop_training = True

    def _part(self, runner: Runner) -> float:
        """How much of the schedule is behind, 0 to 1."""
        by_time = self._state.elapsed_s / self._options.time_limit_s if self._options.time_limit_s else 0.0
        return max(runner.iter / runner.max_iters, by_time)


def rate_factor(part: float, warm_up_part: float) -> float:
    """The learning rate as a part of the highest one."""
    warm = min(1.0, (part + 0.1 * warm_up_part) / warm_up_part) if warm_up_part else 1.0
    fallen = max(0.0, min(1.0, (part - warm_up_part) / (1.0 - warm_up_part)))
    return warm * (1 + math.cos(math.pi * fallen)) / 2


class Reporter(Hook):
    """Writes each loss to a file, says now and then how far the run is, and stops it when it is cancelled."""

    def __init__(
        self,
        state: RunState,
        work_dir: Path,
        report: Callable[[Progress], None],
        cancelled: Callable[[], bool],
        count_epochs: Callable[[int], float],
    ) -> None:
        self._state, self._path = state, work_dir / LOSSES_FILE
        self._report, self._cancelled, self._count_epochs = report, cancelled, count_epochs
        self._reported_s = -math.inf
        self._started: tuple[int, float] | None = None

    def before_train(self, runner: Runner) -> None:
        """Forget the losses after the checkpoint that this run goes on from."""
        keep_losses(self._path, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        if self._cancelled():
            raise JobCancelled("The training was cancelled.")
        if self._started is None:
            self._started = (runner.iter, time.monotonic())

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict[str, float] | None = None
    ) -> None:
        loss = (outputs or {})["loss"]
        self._state.loss = (
            loss if self._state.loss is None else self._state.loss + (1 - LOSS_MEMORY) * (loss - self._state.loss)
        )
        if mmengine.dist.is_main_process():
            with self._path.open("a") as file:
                file.write(json.dumps([runner.iter + 1, round(loss, 5)]) + "\n")
        last = runner.iter + 1 >= runner.max_iters or runner.train_loop.stop_training
        if last or time.monotonic() - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = time.monotonic()
            self._report(self._progress(runner))

    def _progress(self, runner: Runner) -> Progress:
        done, (first, started_s) = runner.iter + 1, self._started or (0, time.monotonic())
        pace_s = (time.monotonic() - started_s) / max(done - first, 1)
        epoch = self._count_epochs(done * runner.train_loop.images_an_update)
        left = 0 if runner.train_loop.stop_training else runner.max_iters - done
        state, loss = self._state, round(self._state.loss or 0.0, 4)
        measured = state.map, state.weighted_map
        return Progress(round(epoch, 2), done, runner.max_iters, loss, round(left * pace_s, 1), *measured)


def keep_losses(path: Path, iterations: int) -> None:
    """Drop what is beyond so many iterations, or was half written when a trainer was killed."""
    kept = [entry for entry in read_losses(path) if entry[0] <= iterations]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def read_losses(path: Path) -> list[tuple[int, float]]:
    """Iteration and loss of each line that is whole; none if there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


class Saver(Hook):
    """A checkpoint every so many seconds, whole or not at all: tensors and plain numbers only.

    Runs after the moving average (`priority`), so that the checkpoint holds it.
    """

    priority = "LOWEST"

    def __init__(self, options: TrainOptions, state: RunState, work_dir: Path) -> None:
        self._options, self._state, self._work_dir = options, state, work_dir
        self._saved_s = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if time.monotonic() - self._saved_s < self._options.save_every_s or not mmengine.dist.is_main_process():
            return
        unfinished = self._work_dir / f"{CHECKPOINT_FILE}.part"
        meta = {"iter": runner.iter + 1, "state": self._state.to_meta()}
        runner.save_checkpoint(str(self._work_dir), unfinished.name, meta=meta, by_epoch=False)
        os.replace(unfinished, self._work_dir / CHECKPOINT_FILE)
        self._saved_s = time.monotonic()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, object]) -> None:
        """mmengine adds log histories, which are objects: `torch.load` would have to run code to read them."""
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, dict[str, object]]) -> None:
        self._state.restore(checkpoint["meta"]["state"])


class Validator(Hook):
    """Measures the averaged weights on val, keeps the latest good ones, and ends a run that gets worse.

    "Good" is within `NOISE` of the best weighted mAP: later weights are the surer ones. mAP itself would not do. With
    many old labels it hardly shows what a new one gains: the highest mAP of a 40-image project came after a third of
    the run, with a recall of 0.03 for its new label.
    """

    priority = "LOW"  # after the moving average, before Saver

    def __init__(
        self,
        options: TrainOptions,
        state: RunState,
        average: EMAHook,
        measure: Callable[[nn.Module], Metrics],
        keep: Callable[[nn.Module], None],
    ) -> None:
        self._options, self._state, self._average = options, state, average
        self._measure, self._keep = measure, keep
        self._measured = 0

    def before_train(self, runner: Runner) -> None:
        self._measured = int(self._options.validations * runner.iter / runner.max_iters)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        due = int(self._options.validations * (runner.iter + 1) / runner.max_iters)
        if due <= self._measured and not runner.train_loop.stop_training:
            return
        self._measured = due
        # Only the first process measures; the others wait here for what it found.
        found: list[tuple[float, float]] = [(0.0, 0.0)]
        if mmengine.dist.is_main_process():
            metrics = self._measure(self._average.ema_model.module)
            found = [(metrics.map, metrics.weighted_map)]
        mmengine.dist.broadcast_object_list(found)
        self._state.map, self._state.weighted_map = found[0]
        self._judge(runner, found[0][1])

    def _judge(self, runner: Runner, value: float) -> None:
        state, best = self._state, self._state.best_weighted_map
        if best is None or value >= best - NOISE:
            state.best_weighted_map, state.worse_in_a_row = max(value, best or 0.0), 0
            if mmengine.dist.is_main_process():
                self._keep(self._average.ema_model.module)
        else:
            state.worse_in_a_row += 1
        if state.worse_in_a_row >= self._options.patience:
            runner.train_loop.stop_training = True
