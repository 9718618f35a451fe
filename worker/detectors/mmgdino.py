"""Grounding DINO and MM Grounding DINO: mmdet's own `GroundingDINO`, for many images and any number of prompts a call.

Called by `worker/models.py` (when a model is first used), `worker/evaluate.py` and the zoo.
Must not import backend or groundcrew.
mmdet predicts image by image, and allows only one where prompts exceed the text length. Here images of one size share
a batch, captions share the image features, and the boxes stay the same.
Example: `load(ModelSource("tiny", "1", "config.py", Path("tiny.pth")), "auto").detect([image], ("dog",), ...)`.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from numpy.typing import NDArray
from torch import Tensor

from contract.errors import ConfigError, OutOfDeviceMemory, PromptError, SettingsError
from worker.detectors.base import Boxes, ModelSource
from worker.detectors.checkpoints import load_strictly, read_state_dict
from worker.detectors.configs import find_config, prepare_for_inference, read_config
from worker.detectors.fast.model import FastDino
from worker.detectors.fast.support import why_not
from worker.detectors.plain import PlainDino
from worker.detectors.precision import choose_dtype
from worker.detectors.preprocess import Packed, Preprocessor
from worker.detectors.prompts import Caption, clean_prompt, encode_prompts, text_limit
from worker.detectors.selection import Candidates, Selection, gather_candidates
from worker.detectors.stack import GroundingDINO, build_detector

CAPTION_SETS_CACHED = 32  #: label configs in use at a time; a set of 256 tokens takes 0.4 MB
OUT_OF_MEMORY_PHRASES = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
WARM_UP_SHAPE = (480, 640, 3)
WARM_UP_GREY = 114


def load(source: ModelSource, device: str, threads: int | None = None, precision: str = "auto") -> MMGroundingDino:
    """Build the model on `device`, ready to detect; nothing is downloaded.

    Args:
        source: config, checkpoint and language model. Without a checkpoint the weights are random.
        device: "cpu", "cuda", "cuda:1" ... or "auto" (the first GPU, else the CPU).
        threads: CPU threads of torch for this whole process; None leaves torch's own choice.
        precision: "auto", "fp32" or "bf16": see `precision.choose_dtype`.

    Raises:
        SettingsError: no such device, or it has no units for this precision.
        ConfigError, LangModelMissing, CheckpointRefused, CheckpointMismatch: what their names say, with the remedy.
    """
    target = choose_device(device)
    dtype = choose_dtype(precision, target)
    if threads is not None:
        torch.set_num_threads(threads)
    config = prepare_for_inference(read_config(find_config(source.config)), source.lang_model)
    weights = read_state_dict(source.checkpoint) if source.checkpoint else None
    model = build_model(config)
    if weights is None:
        _draw_random_weights(model)
    else:
        load_strictly(model, weights)
    return MMGroundingDino(model.to(target), Preprocessor(config), dtype=dtype)


def choose_device(name: str) -> torch.device:
    """The device that DEVICE means on this machine.

    Raises:
        SettingsError: neither "auto", "cpu" nor an NVIDIA GPU that is there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"DEVICE {name!r} is not one of auto, cpu, cuda:0, cuda:1 and so on.") from error
    gpus = torch.cuda.device_count()
    if device.type not in {"cpu", "cuda"} or (device.type == "cuda" and (device.index or 0) >= gpus):
        raise SettingsError(f"DEVICE {name!r} is not there: torch {torch.__version__} sees {gpus} NVIDIA GPU(s).")
    return device


def build_model(config: Config) -> GroundingDINO:
    """The detector of a prepared config, its weights not yet loaded.

    Raises:
        ConfigError: its model section does not build.
    """
    try:
        return build_detector(config.model)
    except Exception as error:  # constructors of any backbone an operator may name
        raise ConfigError(f"CONFIG_FILE {config.filename} does not build: {type(error).__name__}: {error}") from error


def _draw_random_weights(model: GroundingDINO) -> None:
    """mmengine's own initialisation, without the line it logs for each parameter."""
    logging.getLogger(__name__).warning("no checkpoint is given: the weights are random and so are the boxes")
    mmengine_log = MMLogger.get_current_instance()
    level = mmengine_log.level
    mmengine_log.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        mmengine_log.setLevel(level)


class MMGroundingDino:
    """A loaded model; see `base.Detector` for what `detect` promises."""

    def __init__(
        self,
        model: GroundingDINO,
        preprocess: Callable[[NDArray[np.uint8]], Packed],
        limit_tokens: int | None = None,
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        """Take over `model`.

        Args:
            model: on its device, its weights loaded and from now on left alone.
            preprocess: the model's test pipeline.
            limit_tokens: length of one caption; None for as long as the model allows.
            dtype: in which the fast path multiplies matrices; None for mmdet's own modules.
        """
        self._model = model.eval().requires_grad_(False)
        self._plain, self._fast = PlainDino(model), _speed_up(model, dtype)
        self._preprocess = preprocess
        limit = limit_tokens or text_limit(model)
        self._max_boxes = (model.test_cfg or {}).get("max_per_img", model.num_queries)
        self._encode = functools.lru_cache(CAPTION_SETS_CACHED)(lambda names: encode_prompts(model, names, limit))

    def detect(
        self,
        images: Sequence[NDArray[np.uint8]],
        prompts: tuple[str, ...],
        *,
        score_threshold: float,
        nms_iou: float | None,
        groups: Sequence[int] | None = None,
    ) -> list[Boxes]:
        """Look for every prompt in every image: see `base.Detector.detect`.

        At most `max_per_img` of the model's config (mostly 300) boxes an image, before equal prompts are repeated.
        """
        if not prompts:
            raise PromptError("list is empty: name at least one thing to look for")
        names = [clean_prompt(prompt) for prompt in prompts]
        distinct = tuple(dict.fromkeys(names))
        selection = Selection(
            name_ids=tuple(distinct.index(name) for name in names),
            groups=tuple(groups or range(len(names))),
            limit=self._max_boxes,
            nms_iou=nms_iou,
        )
        return [selection.apply(candidates) for candidates in self._find(images, distinct, score_threshold)]

    def warm_up(self) -> None:
        """Run once on a grey image."""
        grey = np.full(WARM_UP_SHAPE, WARM_UP_GREY, dtype=np.uint8)
        self.detect([grey], ("object",), score_threshold=1.0, nms_iou=None)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _find(
        self, images: Sequence[NDArray[np.uint8]], names: tuple[str, ...], score_threshold: float
    ) -> list[Candidates]:
        """Candidates of each image; running out of memory gets its own error."""
        try:
            return self._look(images, names, score_threshold)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            problem = f"{len(images)} image(s) did not fit into the memory of {self._device}: {error}"
        # Only here, with the first error gone: it would keep alive the tensors of every frame it passed.
        torch.cuda.empty_cache()
        raise OutOfDeviceMemory(problem)

    @torch.inference_mode()
    def _look(
        self, images: Sequence[NDArray[np.uint8]], names: tuple[str, ...], score_threshold: float
    ) -> list[Candidates]:
        captions = self._encode(names)
        packed = [self._preprocess(image) for image in images]
        found: dict[int, Candidates] = {}
        for positions in _group_by_size(packed):
            scored = list(self._score([packed[position] for position in positions], captions))
            for row, position in enumerate(positions):
                parts = [(scores[row], boxes[row], ids) for scores, boxes, ids in scored]
                found[position] = gather_candidates(parts, packed[position]["data_samples"], score_threshold)
        return [found[position] for position in range(len(images))]

    def _score(self, group: list[Packed], captions: list[Caption]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each caption (B, Q, P) scores, (B, Q, 4) boxes as fractions, (P,) positions of its prompts."""
        inputs = [_send(packed["inputs"], self._device) for packed in group]
        samples = [packed["data_samples"] for packed in group]
        batch = self._model.data_preprocessor({"inputs": inputs, "data_samples": samples})
        given = batch["inputs"], batch["data_samples"], captions
        scored = (self._fast and self._fast.score(*given)) or self._plain.score(*given)
        for caption, (logits, boxes) in zip(captions, scored, strict=True):
            yield logits.sigmoid() @ caption.token_weights.T, boxes, caption.prompt_ids


def _send(pixels: Tensor, device: torch.device) -> Tensor:
    """To a GPU from pinned memory, so that the next image need not wait for the copy; on a CPU the same tensor."""
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels


def _speed_up(model: GroundingDINO, dtype: torch.dtype | None) -> FastDino | None:
    if dtype is None:
        return None
    reason = why_not(model)
    if reason:
        logging.getLogger(__name__).warning("predictions take mmdet's slower path: %s", reason)
        return None
    return FastDino(model, dtype)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: torch has a class for its GPU allocator; for the CPU and CUDA only the message tells."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in OUT_OF_MEMORY_PHRASES)


def _group_by_size(packed: list[Packed]) -> list[list[int]]:
    """Positions of the images that have one size after resizing.

    Padding would let them share a batch, but it changes results: the neck's GroupNorm averages over the padding, and
    Swin's windows reach into it.
    """
    groups: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for position, item in enumerate(packed):
        groups[item["inputs"].shape].append(position)
    return list(groups.values())
