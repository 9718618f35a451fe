"""One training in this process: puts model, data, hooks and mmengine's Runner together.

Called by worker/train.py, and in each process of a parallel training by parallel.py.
Must not import backend or groundcrew.
Example: `Run(base, data, work_dir, options, "cpu").train(report=print, cancelled=lambda: False)`.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_distributed
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from worker.detectors.base import ModelSource
from worker.detectors.checkpoints import read_state_dict
from worker.detectors.configs import find_config, prepare_for_inference, read_config
from worker.detectors.mmgdino import MMGroundingDino, choose_device
from worker.detectors.preprocess import Preprocessor
from worker.detectors.prompts import START_AND_END_TOKENS, clean_prompt, text_limit
from worker.detectors.stack import get_test_pipeline_cfg
from worker.evaluate import Metrics, evaluate
from worker.replay import open_replay
from worker.train import VERSION_DIRECTORY, directory_of
from worker.training.augment import Augmentation
from worker.training.captions import make_book
from worker.training.hooks import (
    CHECKPOINT_FILE,
    LOSSES_FILE,
    Reporter,
    RunState,
    Saver,
    Schedule,
    Validator,
    read_losses,
)
from worker.training.loop import UpdateLoop
from worker.training.model import TrainedDino, build_for_training, describe_optimiser
from worker.training.options import Progress, TrainOptions
from worker.training.output import write_version, write_weights
from worker.training.samples import TrainingData, prompts_of
from worker.training.stream import NumberSampler, Packed, TrainingStream

BEST_FILE = "best.safetensors"
USUAL_SCALE_PX = (1333, 800)  #: of MM Grounding DINO, where a pipeline names none
SIDES = ("left", "right")


class Run:
    """A training that has not begun."""

    def __init__(
        self, base: ModelSource, data: TrainingData, work_dir: Path, options: TrainOptions, device: str
    ) -> None:
        """Read config, weights and replay data; for what it raises see `worker.train.train`."""
        torch.set_flush_denormal(True)  # tiny gradients made an update of the tiny model a quarter slower on a CPU
        self._work_dir, self._options, self._data = work_dir, options, data
        self._base_directory = directory_of(base)
        self._config = prepare_for_inference(read_config(find_config(base.config)), base.lang_model)
        weights = read_state_dict(base.checkpoint) if base.checkpoint else None
        self._half = weights is not None and any(value.dtype == torch.float16 for value in weights.values())
        torch.manual_seed(options.seed)
        self._model = build_for_training(self._config, weights, options, choose_device(device))
        self._stream = self._make_stream(self._model)
        self._state = RunState()

    def train(self, report: Callable[[Progress], None], cancelled: Callable[[], bool]) -> Path:
        """All updates that are left, then the version; only the first process writes it."""
        version = self._work_dir / VERSION_DIRECTORY
        started_s = time.monotonic()
        average = EMAHook("ExponentialMovingAverage", momentum=self._options.average_momentum)
        hooks = [Schedule(self._options, self._state), average, *self._validators(average, cancelled)]
        hooks.append(Reporter(self._state, self._work_dir, report, cancelled, self._stream.count_epochs))
        runner = self._make_runner([*hooks, Saver(self._options, self._state, self._work_dir)])
        runner.train()
        if get_rank() == 0:
            self._write(version, self._chosen_weights(average.ema_model.module), runner, time.monotonic() - started_s)
        return version

    def _make_stream(self, model: TrainedDino) -> TrainingStream:
        tokenizer, options = model.language_model.tokenizer, self._options

        def count_tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False).input_ids)

        book = make_book(
            prompts_of(self._data.categories),
            clean_prompt,
            lambda name: count_tokens(f"{name}. "),
            text_limit(model) - START_AND_END_TOKENS,
            model.dn_query_generator.num_classes,
        )
        sided = any(side in name.lower().split() for name in book.names for side in SIDES)
        how = Augmentation(
            **find_view(self._config),
            scale_range=options.scale_range,
            crop_chance=options.crop_chance,
            flip_chance=0.0 if sided else options.flip_chance,
        )
        replay = open_replay(self._base_directory)
        samples = self._data.split("train")
        return TrainingStream(
            samples, book, how, replay, options.replay_part, options.seed, options.batch_size, count_tokens
        )

    def _iterations(self) -> int:
        """Updates of the whole run."""
        if self._options.iterations:
            return self._options.iterations
        images_an_update = self._options.batch_size * get_world_size()
        needed = math.ceil(self._options.epochs / self._stream.count_epochs(images_an_update))
        return max(needed, self._options.least_iterations)

    def _validators(self, average: EMAHook, cancelled: Callable[[], bool]) -> list[Validator]:
        val = self._data.split("val")
        if not any(len(sample.category_ids) for sample in val):
            return []
        preprocess = Preprocessor(self._config)

        def measure(module: nn.Module) -> Metrics:
            detector = MMGroundingDino(module, preprocess)  # a new one each time: it remembers features of prompts
            return evaluate(detector, val, self._data.categories, tiles=self._data.tiles, cancelled=cancelled)

        def keep(module: nn.Module) -> None:
            write_weights(self._work_dir / BEST_FILE, module.state_dict(), half=self._half)

        return [Validator(self._options, self._state, average, measure, keep)]

    def _make_runner(self, hooks: list) -> Runner:
        checkpoint = self._work_dir / CHECKPOINT_FILE
        options, processes, iterations = self._options, get_world_size(), self._iterations()
        sampler = NumberSampler(0, iterations * options.batch_size * processes, get_rank(), processes)
        loader = DataLoader(
            self._stream, options.batch_size, sampler=sampler, num_workers=options.loader_workers, collate_fn=collate
        )
        unused = ("logger", "timer", "param_scheduler", "checkpoint", "sampler_seed", "runtime_info")
        return _Runner(
            self._model,
            str(self._work_dir / "log"),
            train_dataloader=loader,
            train_cfg={
                "type": UpdateLoop,
                "iterations": iterations,
                "chunk_size": options.chunk_size,
                "processes": processes,
            },
            optim_wrapper=describe_optimiser(options),
            default_hooks=dict.fromkeys(unused),
            custom_hooks=hooks,
            load_from=str(checkpoint) if checkpoint.is_file() else None,
            resume=checkpoint.is_file(),
            launcher="pytorch" if is_distributed() else "none",
            log_level="ERROR",  # it would warn of each frozen parameter
            default_scope="mmdet",
            randomness={"seed": options.seed + get_rank()},
            experiment_name=f"finetune-{uuid.uuid4().hex[:8]}",  # mmengine keeps its singletons by this name
        )

    def _chosen_weights(self, averaged: nn.Module) -> Mapping[str, Tensor]:
        """The best that were measured; without val images the last."""
        best = self._work_dir / BEST_FILE
        return read_state_dict(best) if self._state.best_weighted_map is not None else averaged.state_dict()

    def _write(self, version: Path, weights: Mapping[str, Tensor], runner: Runner, seconds: float) -> None:
        losses = read_losses(self._work_dir / LOSSES_FILE)
        log = {
            "options": asdict(self._options),
            "iterations": runner.iter,
            "epochs": round(self._stream.count_epochs(runner.iter * runner.train_loop.images_an_update), 2),
            "seconds": round(self._state.elapsed_s, 1),
            "seconds_of_last_trainer": round(seconds, 1),
            "processes": get_world_size(),
            "chunk_size": runner.train_loop.chunk_size,
            "best_weighted_map": self._state.best_weighted_map,
            "replay": self._stream.replay is not None,
        }
        write_version(
            version,
            self._config,
            weights,
            half=self._half,
            base_directory=self._base_directory,
            losses=losses,
            train_log=log,
        )


class _Runner(Runner):
    """mmengine's Runner, with the model on the device that was chosen, and DDP that also runs on a CPU."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if not self.distributed:
            return model
        device = next(model.parameters()).device
        places = [device.index] if device.type == "cuda" else None
        return MMDistributedDataParallel(model, device_ids=places, broadcast_buffers=False)


def collate(packed: list[Packed]) -> dict[str, list]:
    """Images of one batch may differ in size; mmdet's data preprocessor pads them."""
    return {key: [one[key] for one in packed] for key in ("inputs", "data_samples")}


def find_view(config: Config) -> dict[str, object]:
    """What the test pipeline makes of an image: the sizes and the padding of `Augmentation`."""
    steps = get_test_pipeline_cfg(config) if "test_dataloader" in config else config.get("test_pipeline", [])
    named = {str(step["type"]).rpartition(".")[2]: step for step in steps}
    scales = [step["scale"] for name, step in named.items() if "Resize" in name and "scale" in step]
    short_side_px, long_side_px = sorted(scales[0] if scales else USUAL_SCALE_PX)
    pad = named.get("Pad", {})
    fill = pad.get("pad_val", 0)
    fill_bgr = fill.get("img", 0) if isinstance(fill, dict) else fill
    fill_bgr = (fill_bgr,) * 3 if isinstance(fill_bgr, int | float) else fill_bgr
    return {
        "short_side_px": int(short_side_px),
        "long_side_px": int(long_side_px),
        "multiple_px": int(pad.get("size_divisor") or 1),
        "fill_rgb": tuple(int(value) for value in reversed(fill_bgr)),
    }
