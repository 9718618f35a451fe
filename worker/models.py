"""Model versions on this worker's device: loaded on first sight in a job, the last few kept, one detect call at a time.

Called by: worker.predict, worker.app. Must not import: torch, mmdet (the detector's module does, when first used).
Example: `models.detect_all(Look(ref, prompts, groups, 0.3), [pixels], urgent=True)[0]` -> Boxes
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import nullcontext
from typing import NamedTuple

from contract.errors import DetectorHung, GroundcrewError, OutOfDeviceMemory
from contract.meters import BATCH, IMAGES, MODEL_LOAD, STAGE
from contract.registry import ModelVersion, Registry
from contract.settings import Settings
from worker.batcher import MicroBatcher
from worker.detectors.base import Boxes, Detector, ModelSource
from worker.images import Pixels

log = logging.getLogger(__name__)

LOAD_AGAIN_S = 30.0  #: a checkpoint may be mended meanwhile
LARGE_AT_ONCE = 2  #: one runs while the next waits; more would keep small images behind hundreds of tiles
#: How often PyTorch's threads look for work before they sleep. OpenMP's own 300,000 hold up the threads that sample,
#: which share the processors: Swin-T at 800 x 1066 takes 1.92 s instead of 2.07 (AMD), 0.77 instead of 0.81 (Intel).
SPINS = {"GOMP_SPINCOUNT": "20000"}
KEPT_VERSIONS = 2  #: the current one and the one before, for rollback and for jobs still stamped with it


class Look(NamedTuple):
    """What images of one batch have in common."""

    ref: str
    prompts: tuple[str, ...]
    groups: tuple[int, ...]
    score_threshold: float


class Models:
    """All detectors of one process. `load` builds a detector from a version; tests pass their own."""

    def __init__(self, registry: Registry, load: Callable[[ModelVersion], Detector], settings: Settings) -> None:
        self._registry = registry
        self._load = load
        self._detectors: OrderedDict[str, tuple[Detector, ModelVersion]] = OrderedDict()
        self._loading, self._keeping = threading.Lock(), threading.Lock()
        self._failures: dict[str, tuple[float, GroundcrewError]] = {}  #: by ref: when it failed, and how
        self._seats = threading.BoundedSemaphore(LARGE_AT_ONCE)
        self._detect_timeout_s = settings.detect_timeout_s
        self.batcher: MicroBatcher[Look, Pixels, Boxes] = MicroBatcher(
            self._run, limit=settings.batch_size, name="detect"
        )

    def detect_all(self, look: Look, images: Sequence[Pixels], *, urgent: bool) -> list[Boxes]:
        """The boxes of each view of one image; the tiles of a large one take a seat, so that small ones get through.

        Raises ModelError, for the first view that fails; DetectorHung when the detector stays silent.
        """
        with self._seats if len(images) > 1 else nullcontext():
            return self._detect(look, images, urgent=urgent)

    def submit(self, look: Look, pixels: Pixels) -> Future[Boxes] | None:
        """Without waiting for the boxes; None where that version would have to be loaded first. Not for urgent ones."""
        return self.batcher.submit(look, pixels) if self._known(look.ref) else None

    def _detect(self, look: Look, images: Sequence[Pixels], *, urgent: bool) -> list[Boxes]:
        self._detector(look.ref)  # loaded in this thread, if it is new: batches of other versions go on
        futures = [self.batcher.submit(look, pixels, urgent=urgent) for pixels in images]
        end_s = time.monotonic() + 2 * self._detect_timeout_s
        try:
            return [future.result(timeout=max(0.0, end_s - time.monotonic())) for future in futures]
        except FutureTimeout:
            raise DetectorHung from None
        finally:
            for future in futures:
                future.cancel()  # after an error nobody wants the rest

    def loaded(self) -> list[str]:
        """Names of the versions on the device."""
        with self._keeping:
            return list(self._detectors)

    def warm_up(self) -> None:
        """Load the base model and run it once, before the first job."""
        self._detector(self._registry.base.ref)[0].warm_up()

    def _run(self, look: Look, images: list[Pixels]) -> list[Boxes | BaseException]:
        """One detect call. One that fails is halved, down to single images: they may fit, and a bad one fails alone."""
        detector, version = self._detector(look.ref)
        BATCH.observe(len(images))
        try:
            with STAGE.time(stage="detect"):
                found = list(detector.detect(images, look.prompts, score_threshold=look.score_threshold,
                                             nms_iou=version.nms_iou, groups=look.groups))  # fmt: skip
            IMAGES.add(len(found), model=look.ref)
            return found
        except OutOfDeviceMemory as error:
            return self._halve(look, images, error, "out of device memory")
        except GroundcrewError:
            raise  # of the version or the prompts, which all of them share
        except Exception as error:  # whatever a detector makes of one image must not cost its neighbours
            return self._halve(look, images, error, f"unexpected {type(error).__name__}")

    def _halve(self, look: Look, images: list[Pixels], error: Exception, what: str) -> list[Boxes | BaseException]:
        if len(images) == 1:
            return [error]
        half = len(images) // 2
        log.warning("%s with %d images, trying %d", what, len(images), half)
        return self._run(look, images[:half]) + self._run(look, images[half:])

    def _detector(self, ref: str) -> tuple[Detector, ModelVersion]:
        return self._known(ref) or self._load_beside(ref)

    def _known(self, ref: str) -> tuple[Detector, ModelVersion] | None:
        with self._keeping:
            if ref in self._detectors:
                self._detectors.move_to_end(ref)
            return self._detectors.get(ref)

    def _load_beside(self, ref: str) -> tuple[Detector, ModelVersion]:
        """Load while others detect: `_loading` keeps out a second load, `_keeping` is held for a moment only."""
        with self._loading:
            loaded = self._known(ref) or self._load_once(ref)
            with self._keeping:
                self._detectors[ref] = loaded
                while len(self._detectors) > KEPT_VERSIONS:
                    self._detectors.popitem(last=False)
            return loaded

    def _load_once(self, ref: str) -> tuple[Detector, ModelVersion]:
        """A version that does not load is not tried again for a while: each of a thousand jobs would wait for it."""
        failed_s, failure = self._failures.get(ref, (0.0, None))
        started_s = time.monotonic()
        if failure is not None and started_s - failed_s < LOAD_AGAIN_S:
            raise failure
        try:
            version = self._registry.fetch(ref)
            loaded = (self._load(version), version)
        except GroundcrewError as error:
            self._failures[ref] = (time.monotonic(), error)
            raise
        MODEL_LOAD.observe(time.monotonic() - started_s, model=ref)
        log.info("loaded model %s in %.1f s", ref, time.monotonic() - started_s)
        return loaded


def as_source(version: ModelVersion) -> ModelSource:
    """Where a detector finds the files of a version."""
    return ModelSource(version.name, version.version, version.config, version.checkpoint, version.lang_model)


def load_mmgdino(settings: Settings) -> Callable[[ModelVersion], Detector]:
    """The real thing: mmdet's GroundingDINO on DEVICE. Call it before torch is imported, which reads SPINS once."""
    for name, spins in SPINS.items():
        os.environ.setdefault(name, spins)

    def load(version: ModelVersion) -> Detector:
        from worker.detectors import mmgdino

        threads = settings.torch_threads or None
        return mmgdino.load(as_source(version), settings.device, threads=threads, precision=settings.precision)

    return load
