"""Train the tiny model from nothing on generated scenes: `python -m groundcrew.zoo.train_tiny --minutes 60`.

Called by hand, on one CPU thread beside a process that draws; figures of the result: evaluate_tiny.py.
Must not import backend.
Example: `python -m groundcrew.zoo.train_tiny --minutes 2 --out runs/try` shows within two minutes that the loss falls.
"""

import argparse
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor

from groundcrew.zoo.detection import normalise
from groundcrew.zoo.stream import Batch, BatchStream
from groundcrew.zoo.tiny_model import TINY_SHAPES, Stage, build_tiny, read_stages, save_tiny
from groundcrew.zoo.vocabulary import write_bert
from worker.detectors.stack import DetDataSample, GroundingDINO

PEAK_RATE = 4e-4
LAST_RATE = 0.02  # of the peak
WARM_UP_STEPS = 150
CONSTANT_PART = 0.25  # of the time, before the cosine begins
WEIGHT_DECAY = 1e-2
LARGEST_GRADIENT = 1.0
EMA_DECAY = 0.998
SAVE_EVERY_S = 240.0
REPORT_STEPS = 50


class MixedPrecisionDino(GroundingDINO):
    """GroundingDINO whose backbone, neck and encoder compute in bfloat16; decoder and losses need float32."""

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            features = super().extract_feat(batch_inputs)
        return tuple(feature.float() for feature in features)

    def forward_encoder(self, **inputs: object) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = super().forward_encoder(**inputs)
        return {**outputs, "memory": outputs["memory"].float(), "memory_text": outputs["memory_text"].float()}


def learning_rate(peak: float, step: int, part: float) -> float:
    """Rate at a step when this part (0 to 1) of the time has passed: warm-up, constant, cosine."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    fallen = max(0.0, min(1.0, (part - CONSTANT_PART) / (1 - CONSTANT_PART)))
    return peak * warm * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * fallen)) / 2)


def make_samples(batch: Batch, shape: tuple[int, int]) -> list[DetDataSample]:
    """Boxes that some name means, each with the places in the text of all names that mean it.

    `shape` is height and width of what the model gets to see, edges that were filled up included.
    """
    samples = []
    for boxes, prompt in zip(batch.boxes_xyxy_px, batch.prompts, strict=True):
        starts = [sum(len(name) + 2 for name in prompt.names[:number]) for number in range(len(prompt.names))]
        spans = [[start, start + len(name)] for start, name in zip(starts, prompt.names, strict=True)]
        meant = [number for number, names in enumerate(prompt.matches) if names]
        objects = InstanceData(
            bboxes=torch.from_numpy(boxes[meant]), labels=torch.arange(len(meant))
        )  # (N, 4) xyxy, pixels
        sample = DetDataSample(gt_instances=objects)
        sample.set_metainfo({"img_shape": shape, "batch_input_shape": shape, "ori_shape": shape})
        sample.text = "".join(f"{name}. " for name in prompt.names)
        sample.tokens_positive = [[spans[name] for name in prompt.matches[number]] for number in meant]
        samples.append(sample)
    return samples


class Average:
    """Exponential moving average of a model's state, which detects better than the last state."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        current = model.state_dict()
        floating = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in floating], [current[name] for name in floating], 1 - decay)


def make_optimiser(model: torch.nn.Module) -> torch.optim.AdamW:
    """Weight decay for matrices and kernels, none for biases and norms."""
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.requires_grad and p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


def train_step(model: GroundingDINO, optimiser: torch.optim.AdamW, batch: Batch, rate: float) -> float:
    """One update; returns the loss before it."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    inputs = normalise(model, torch.from_numpy(batch.images).float())
    loss, _ = model.parse_losses(model.loss(inputs, make_samples(batch, tuple(inputs.shape[2:]))))
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    optimiser.step()
    return float(loss.detach())


class Clock:
    """How far a run has come; it ends when its time is over or the process is asked to stop."""

    def __init__(self, minutes: float) -> None:
        self.limit_s = 60 * minutes
        self.started_s = time.monotonic()
        self.stopped = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped = True

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def over(self) -> bool:
        return self.stopped or self.seconds >= self.limit_s


def train(model: GroundingDINO, clock: Clock, peak: float, seed: int, save: Callable[[Average, Stage], None]) -> None:
    """Train until the clock says stop, and save the average every few minutes and at the end."""
    optimiser, average = make_optimiser(model), Average(model)
    stage: Stage = {"seed": seed, "peak_rate": peak, "steps": 0, "images": 0, "minutes": 0.0, "loss": 0.0}
    saved_s = 0.0
    with BatchStream(seed) as batches:
        while not clock.over:
            batch = next(batches)
            rate = learning_rate(peak, int(stage["steps"]), clock.seconds / clock.limit_s)
            loss = train_step(model, optimiser, batch, rate)
            _count(stage, len(batch.images), loss, clock.seconds)
            average.update(model, int(stage["steps"]))
            if stage["steps"] % REPORT_STEPS == 0:
                print(json.dumps(stage), flush=True)
            if clock.seconds - saved_s > SAVE_EVERY_S:
                save(average, stage)
                saved_s = clock.seconds
    save(average, stage)


def _count(stage: Stage, images: int, loss: float, seconds: float) -> None:
    stage["steps"] += 1
    stage["images"] += images
    stage["minutes"] = round(seconds / 60, 1)
    # A mean over about the last hundred steps.
    stage["loss"] = loss if stage["steps"] == 1 else round(0.99 * stage["loss"] + 0.01 * loss, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=PEAK_RATE, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TINY_SHAPES, help="directory that receives the weights")
    parser.add_argument("--start-from", type=Path, help="weights to go on from, instead of fresh ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # tiny gradients made a step a quarter slower
    torch.manual_seed(options.seed)
    before = read_stages(options.start_from) if options.start_from else []
    model = start_model(options.out, options.start_from)

    def save(average: Average, stage: Stage) -> None:
        save_tiny(average.state, options.out, [*before, stage])

    train(model.train(), Clock(options.minutes), options.rate, options.seed, save)


def start_model(out: Path, start_from: Path | None) -> GroundingDINO:
    """Prepare the directory (configuration and BERT) and build the model, with given weights if there are any."""
    from safetensors.torch import load_file

    out.mkdir(parents=True, exist_ok=True)
    if out != TINY_SHAPES:
        (out / "config.py").write_text((TINY_SHAPES / "config.py").read_text())
    write_bert(out / "bert")
    model = build_tiny(out, MixedPrecisionDino)
    MMLogger.get_current_instance().setLevel("WARNING")  # it would report the initial state of every tensor
    model.init_weights()
    if start_from is not None:
        model.load_state_dict(load_file(start_from), strict=True)
    return model


if __name__ == "__main__":
    main()
