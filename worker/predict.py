"""One image from its address to a prediction in Label Studio's form: fetch, decode, detect, convert.

Called by: worker.tasks. Must not import: Celery, torch.
Example: `Predictor(settings, records, fetcher, models, registry).predict(job) -> Prediction`
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial

from contract.errors import ImageError, JobCancelled, JobExpired
from contract.jobs import Prediction, PredictJob
from contract.labels import LabelMap, read_label_config
from contract.meters import STAGE
from contract.regions import DetectedBox, boxes_to_result, prediction_score
from contract.registry import ModelVersion, Registry
from contract.status import JobRecords
from contract.tiling import Tiling, choose_tiling
from worker.addresses import Fetcher
from worker.detectors.base import Boxes
from worker.images import Pixels, decode_image
from worker.models import Look, Models
from worker.tiles import detect

KNOWN_CONFIGS = 500  #: label configs kept in memory


@dataclass(frozen=True)
class Prepared:
    """An image that is read, and what to look for in it."""

    job: PredictJob
    label_map: LabelMap
    pixels: Pixels  # (H, W, 3)
    look: Look
    threshold: float
    version: ModelVersion

    @property
    def tiling(self) -> Tiling:
        return choose_tiling(self.version.tiling, self.label_map)

    @property
    def is_one_view(self) -> bool:
        """Whether the model looks at the image as a whole, and at nothing else."""
        size_px = self.tiling.size_px
        return not size_px or max(self.pixels.shape[:2]) <= size_px


@dataclass(frozen=True)
class Predictor:
    """The stages of a predict job, with a look at "does anyone still want this?" between them."""

    records: JobRecords
    fetcher: Fetcher
    models: Models
    registry: Registry
    image_limit_px: int
    _known_maps: dict[str, LabelMap] = field(default_factory=dict, repr=False)

    def predict(self, job: PredictJob) -> Prediction:
        """Raises ImageError, ModelError, JobExpired, JobCancelled, UnknownJob (its label config is gone)."""
        prepared = self.prepare(job)
        self._check_deleted(job)
        return self.conclude(prepared, self.detect(prepared))

    def prepare(self, job: PredictJob, data: bytes | None = None) -> Prepared:
        """Everything before the model: `data` is the image's file, where it has been read already.

        Raises ImageError, JobExpired, JobCancelled, UnknownVersion, UnknownJob.
        """
        _check_expiry(job)
        label_map = self._label_map(job)
        threshold = self._threshold(job)
        pixels = self._read(job, data)  # (H, W, 3)
        _check_expiry(job)
        look = Look(job.model, label_map.prompts, label_map.nms_groups, label_map.lowest_threshold(threshold))
        return Prepared(job, label_map, pixels, look, threshold, self.registry.get(job.model))

    def detect(self, prepared: Prepared) -> Boxes:
        """Raises ModelError."""
        look = prepared.look
        find = partial(self.models.detect_all, look, urgent=prepared.job.urgent)
        return detect(find, prepared.pixels, prepared.tiling, groups=look.groups, nms_iou=prepared.version.nms_iou)

    def conclude(self, prepared: Prepared, boxes: Boxes) -> Prediction:
        """What Label Studio gets."""
        return as_prediction(prepared.job, prepared.label_map, boxes, prepared.pixels, prepared.threshold)

    def _label_map(self, job: PredictJob) -> LabelMap:
        label_map = self._known_maps.get(job.config_id) or self._read_label_map(job.config_id)
        if job.asked is None:
            return label_map
        return label_map.narrow(job.asked.prompts, job.asked.labels, job.asked.score_threshold)

    def _read_label_map(self, config_id: str) -> LabelMap:
        """Read once, since an id names the same config for ever."""
        xml, prompt_map = self.records.load_config(config_id)
        if len(self._known_maps) >= KNOWN_CONFIGS:
            self._known_maps.clear()
        self._known_maps[config_id] = label_map = read_label_config(xml, prompt_map=prompt_map)
        return label_map

    def _threshold(self, job: PredictJob) -> float:
        if job.asked is not None and job.asked.score_threshold is not None:
            return job.asked.score_threshold
        return self.registry.get(job.model).score_threshold

    def _read(self, job: PredictJob, data: bytes | None) -> Pixels:
        """The image. That of a deleted task may be gone, too: then the job is cancelled rather than failed."""
        try:
            if data is None:
                with STAGE.time(stage="download"):
                    data = self.fetcher.fetch(job.image, task_id=job.task_id)
            with STAGE.time(stage="decode"):
                return decode_image(data, limit_px=self.image_limit_px)
        except ImageError:
            self._check_deleted(job)
            raise

    def read_near(self, job: PredictJob) -> bytes | None:
        """The image's file, where it lies on this disk and reading it keeps nobody waiting. Raises ImageError."""
        return self.fetcher.read_near(job.image)

    def _check_deleted(self, job: PredictJob) -> None:
        if job.task_id and self.records.is_deleted(job.project_id, job.task_id):
            raise JobCancelled(f"task {job.task_id} was deleted")


def _check_expiry(job: PredictJob) -> None:
    if job.expires_at_s is not None and time.time() > job.expires_at_s:
        raise JobExpired


def list_boxes(boxes: Boxes) -> list[DetectedBox]:
    """The detector's arrays as plain numbers."""
    return [
        DetectedBox(*map(float, xyxy_px), float(score), int(label))
        for xyxy_px, score, label in zip(boxes.xyxy_px, boxes.scores, boxes.labels, strict=True)
    ]


def as_prediction(job: PredictJob, label_map: LabelMap, boxes: Boxes, pixels: Pixels, threshold: float) -> Prediction:
    height_px, width_px = pixels.shape[:2]
    found = list_boxes(boxes)
    result = boxes_to_result(label_map, found, width_px=width_px, height_px=height_px, score_threshold=threshold)
    score = prediction_score(result, label_map.score)
    return Prediction(task_id=job.task_id, model_version=job.model_version, score=score, result=result)
