"""The endless, numbered stream of training images: each number always gives the same view, so a run can be resumed.

Called by model.py's caller, worker/train.py, through torch's DataLoader.
Must not import backend or groundcrew.
Example: `TrainingStream(samples, book, how, replay=None, replay_part=0, seed=0)[17]["data_samples"].text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from worker.detectors.stack import DetDataSample
from worker.images import Pixels
from worker.replay import Replay
from worker.training.augment import Augmentation, augment
from worker.training.captions import Caption, PromptBook, add_absent, sample_caption
from worker.training.samples import SampleLike, read_pixels

Shown = tuple[Pixels, NDArray[np.floating], Caption]
Packed = dict[str, torch.Tensor | DetDataSample]  #: "inputs": (3, h, w) uint8 BGR; "data_samples": truth and text


@dataclass(frozen=True, eq=False)
class TrainingStream(Dataset[Packed]):
    """Images of the project and of the replay data, evenly mixed, each part in a new order every pass."""

    samples: Sequence[SampleLike]
    book: PromptBook
    how: Augmentation
    replay: Replay | None
    replay_part: float
    seed: int
    batch_size: int  #: images of one batch are scaled alike, so that those of one size can be computed together
    count_tokens: Callable[[str], int]

    def __len__(self) -> int:
        return 2**31  # without end; `NumberSampler` says which numbers are shown

    def __getitem__(self, number: int) -> Packed:
        random = np.random.default_rng((self.seed, number))
        # Counting like this spreads the project's images evenly over the numbers.
        shown = int(number * self._own_part)
        if int((number + 1) * self._own_part) > shown:
            pixels, boxes, caption = self._own(random, shown)
        else:
            pixels, boxes, caption = self._again(random, number - shown)
        return pack(*augment(random, pixels, boxes, self.how, self._scale(number)), caption)

    @property
    def _own_part(self) -> float:
        return 1.0 - self.replay_part if self.replay is not None and self.replay.train else 1.0

    def _own(self, random: np.random.Generator, shown: int) -> Shown:
        sample = self.samples[self._turn(shown, len(self.samples))]
        caption = sample_caption(random, self.book, sample.category_ids)
        return read_pixels(sample.image_path), sample.boxes_xyxy_px, caption

    def _again(self, random: np.random.Generator, shown: int) -> Shown:
        item = self.replay.train[self._turn(shown, len(self.replay.train))]
        caption = item.captions[int(random.integers(len(item.captions)))]
        if self.replay.closed_world:
            caption = add_absent(random, caption, self.book, self.count_tokens(caption.text))
        return self.replay.read_pixels(item), item.boxes_xyxy_px, caption

    def _turn(self, shown: int, count: int) -> int:
        passes, place = divmod(shown, count)
        return int(np.random.default_rng((self.seed, count, passes)).permutation(count)[place])

    def _scale(self, number: int) -> float:
        random = np.random.default_rng((self.seed, number // self.batch_size, self.batch_size))
        return float(random.uniform(*self.how.scale_range))

    def count_epochs(self, numbers: int) -> float:
        """Passes over the project's images in the first so many numbers."""
        return numbers * self._own_part / max(len(self.samples), 1)


def pack(pixels: Pixels, boxes_xyxy_px: NDArray[np.float32], seen: NDArray[np.bool_], caption: Caption) -> Packed:
    """What `GroundingDINO.loss` reads, as mmdet's `PackDetInputs` and `RandomSamplingNegPos` would make it.

    A box counts if it is in sight and some name of the caption means it. Its label is the number of its set of names:
    mmdet looks up `tokens_positive` by label.
    """
    meant = [box for box, group in enumerate(caption.matches) if group and seen[box]]
    groups = list(dict.fromkeys(tuple(caption.matches[box]) for box in meant))
    labels = [groups.index(tuple(caption.matches[box])) for box in meant]
    spans = caption.spans
    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=torch.from_numpy(boxes_xyxy_px[meant].reshape(-1, 4)),  # (N, 4) xyxy, pixels
            labels=torch.tensor(labels, dtype=torch.long),
        )
    )
    sample.set_metainfo({"img_shape": pixels.shape[:2], "ori_shape": pixels.shape[:2], "scale_factor": (1.0, 1.0)})
    sample.text = caption.text
    sample.tokens_positive = [[spans[name] for name in group] for group in groups]
    bgr = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1]))
    return {"inputs": bgr.permute(2, 0, 1), "data_samples": sample}


class NumberSampler(Sampler[int]):
    """The numbers of a run's images, from the first one after a checkpoint; each process takes its share."""

    def __init__(self, start: int, stop: int, rank: int = 0, processes: int = 1) -> None:
        self.start, self.stop, self._rank, self._processes = start, stop, rank, processes

    def __iter__(self) -> Iterator[int]:
        yield from range(self.start + self._rank, self.stop, self._processes)

    def __len__(self) -> int:
        return len(range(self.start + self._rank, self.stop, self._processes))
