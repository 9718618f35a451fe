"""The loop of updates inside mmengine's Runner: gradients in chunks, smaller chunks when memory runs out.

Called by run.py, which hands the class to the Runner. Must not import backend or groundcrew.
mmengine's own loops count chunks as iterations and skip forward through the data to resume. Here an iteration is an
update of the weights whatever its chunks, and the sampler starts where the checkpoint ended. Images of a chunk have
one size: padding changes what the model sees (the neck's GroupNorm averages over it), and prediction never pads; with
padding, the tiny model's losses of boxes began at three times their value.
Example: `Runner(train_cfg={"type": UpdateLoop, "iterations": 300, "chunk_size": 4, "processes": 1}, ...)`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from contract.errors import ModelError, OutOfDeviceMemory
from worker.detectors.mmgdino import is_out_of_memory
from worker.training.stream import NumberSampler

log = logging.getLogger(__name__)

Batch = Mapping[str, Sequence[object]]  #: "inputs" and "data_samples", an entry an image


class TrainingDiverged(ModelError):
    """The loss is no longer a number."""

    code = "training_diverged"


class UpdateLoop(BaseLoop):
    """Runs until `iterations` updates are done or a hook sets `stop_training`."""

    def __init__(
        self, runner: Runner, dataloader: DataLoader, iterations: int, chunk_size: int, processes: int
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_iters, self.max_epochs = iterations, 1
        self._iter = self._epoch = 0  # the Runner sets both when it resumes
        self.stop_training = False
        self._processes = processes
        # Each forward pass averages over all processes, so they must make equally many: one an image.
        self.chunk_size = chunk_size if processes == 1 else 1

    @property
    def iter(self) -> int:
        """Updates done."""
        return self._iter

    @property
    def epoch(self) -> int:
        """mmengine asks; the passes over the data are in `Progress`."""
        return self._epoch

    @property
    def images_an_update(self) -> int:
        """Of all processes together."""
        return self.dataloader.batch_size * self._processes

    def run(self) -> nn.Module:
        """All remaining updates.

        Raises:
            OutOfDeviceMemory: not even one image at a time fits.
            TrainingDiverged: the loss is not finite.
        """
        sampler = self.dataloader.sampler
        assert isinstance(sampler, NumberSampler)
        sampler.start = self._iter * self.images_an_update
        self.runner.call_hook("before_train")
        batches = iter(self.dataloader)
        while self._iter < self.max_iters and not self.stop_training:
            self.runner.model.train()
            batch = next(batches)
            self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
            outputs = self._update(batch)
            self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)
            self._iter += 1
        self.runner.call_hook("after_train")
        return self.runner.model

    def _update(self, batch: Batch) -> dict[str, float]:
        """One update; the same batch again in smaller chunks if memory runs out."""
        while True:
            try:
                return {"loss": self._add_gradients(batch)}
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)
            # Only here, with the error gone: it would keep alive the tensors of every frame it passed.
            self._shrink(problem)

    def _add_gradients(self, batch: Batch) -> float:
        optimiser, total = self.runner.optim_wrapper, 0.0
        count = len(batch["inputs"])
        chunks = cut([tuple(image.shape) for image in batch["inputs"]], self.chunk_size)
        for number, places in enumerate(chunks, start=1):
            with self._synchronised(number == len(chunks)):
                chunk = {key: [values[place] for place in places] for key, values in batch.items()}
                loss = self._loss(chunk) * (len(places) / count)
                optimiser.backward(loss)
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainingDiverged("The loss is no longer a number: a lower learning_rate may help.")
        optimiser.step()
        optimiser.zero_grad()
        return total

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange the sum of their gradients once, with the last chunk."""
        model = self.runner.model
        return model.no_sync() if is_model_wrapper(model) and not last else contextlib.nullcontext()

    def _loss(self, chunk: Batch) -> torch.Tensor:
        model = self.runner.model
        module = model.module if is_model_wrapper(model) else model
        data = module.data_preprocessor(chunk, training=True)
        loss, _ = module.parse_losses(model(**data, mode="loss"))
        return loss

    def _shrink(self, problem: str) -> None:
        self.runner.optim_wrapper.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.chunk_size == 1:
            raise OutOfDeviceMemory(f"Not even one image at a time fits: train on smaller images. {problem}")
        self.chunk_size = self.chunk_size // 2
        log.warning("out of device memory: at most %d image(s) at a time from now on", self.chunk_size)


def cut(shapes: Sequence[tuple[int, ...]], limit: int) -> list[list[int]]:
    """Places of images that share a chunk: of one shape, at most `limit`."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(place)
    return [places[first : first + limit] for places in groups.values() for first in range(0, len(places), limit)]
