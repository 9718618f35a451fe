"""The stages of one fine-tune, from annotations to a published version: export, train, evaluate, publish, promote.

Called by: worker.finetune_process. Must not import: torch, mmdet before a stage needs them.
Each stage leaves its result in the job's own directory, so that another process goes on where a killed one stopped.
Example: `Stages(Tools.open(read_settings()), job, stopping).run()`
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from contract.broker import connect_redis, make_celery, send
from contract.cards import VersionCard
from contract.errors import GroundcrewError, JobCancelled, LabelConfigError
from contract.finetune import FinetuneJob, FinetuneRecords
from contract.jobs import ExpandJob
from contract.labels import LabelMap, read_label_config
from contract.prompt_map import load_prompt_map
from contract.registry import ModelVersion, Registry
from contract.settings import Settings
from contract.stamps import stamp
from contract.status import JobRecords
from contract.tiling import choose_tiling
from worker.dataset import FILE_NAME, Dataset
from worker.export import export_dataset
from worker.files import atomic_file
from worker.gpus import Gpu, list_gpus
from worker.labelstudio import LabelStudio
from worker.models import as_source
from worker.tiles import TileLook
from worker.training.cuts import cut_training_images
from worker.training_gpus import hold_gpus

if TYPE_CHECKING:
    from worker.train import Progress, TrainOptions

log = logging.getLogger(__name__)

PACKAGES = ("torch", "mmdet", "mmengine", "transformers")  #: whose versions a card names
JUDGEMENT_FILE = "decision.json"
BASE_FILE = "base.txt"
TASKS_A_MESSAGE = 1000


class TrainerStopping(GroundcrewError):
    """The trainer is being stopped; another one goes on with this fine-tune."""

    code = "trainer_stopping"
    retry = True


@dataclass(frozen=True)
class Tools:
    """What the stages work with."""

    settings: Settings
    client: redis.Redis
    records: FinetuneRecords
    jobs: JobRecords
    registry: Registry
    label_studio: LabelStudio
    prompt_map: dict[str, str]
    send: Callable[[ExpandJob], None]
    gpus: Callable[[], Sequence[Gpu]] = list_gpus

    @classmethod
    def open(cls, settings: Settings) -> Tools:
        """The real ones."""
        client, app = connect_redis(settings), make_celery(settings, publish_only=True)
        return cls(
            settings, client, FinetuneRecords(client), JobRecords(client, failed_memory_s=settings.failed_memory_s),
            Registry(settings), LabelStudio(settings), load_prompt_map(settings),
            send=lambda job: send(app, [job], shards=settings.queue_shards),
        )  # fmt: skip


def work_directory(settings: Settings, job_id: str) -> Path:
    """Where a job keeps what its stages made, until it is over."""
    return settings.local_model_dir / ".work" / job_id


class Stages:
    """One job's stages; each is skipped where its result is there already."""

    def __init__(self, tools: Tools, job: FinetuneJob, stopping: threading.Event) -> None:
        self._tools, self._job, self.stopping = tools, job, stopping
        self._registry, self._records = tools.registry, tools.records
        self._work = work_directory(tools.settings, job.id)

    def run(self) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        published = self._registry.of_job(self._job.id)
        if published is None:
            base = self._base()
            dataset = self._export(base)
            self._warn(dataset)
            published = self._make(base, dataset)
        self._promote(published)

    def _make(self, base: ModelVersion, dataset: Dataset) -> VersionCard:
        from worker.train import directory_of, read_options

        tools, options = self._tools, read_options(directory_of(as_source(base)), self._job.options)
        gpus = hold_gpus(tools.client, tools.settings, self._job.id, options.processes, self, gpus=tools.gpus)
        with nullcontext() if (self._work / JUDGEMENT_FILE).exists() else gpus:
            candidate = self._train(base, dataset, options)
            return self._publish(base, dataset, candidate, self._judge(base, dataset, candidate))

    def _base(self) -> ModelVersion:
        """What to start from: fixed at the first start, so that a resumed job does not change horses."""
        path = self._work / BASE_FILE
        if not path.exists():
            ref = self._job.base or self._registry.current(self._job.project_id).ref
            with atomic_file(path) as file:
                file.write(ref.encode())
        base = self._registry.fetch(path.read_text(encoding="utf-8"))
        self._records.progress(self._job.id, base=base.ref, gpus="")  # those of a process that died
        return base

    def _export(self, base: ModelVersion) -> Dataset:
        self._enter("export")
        if (self._work / FILE_NAME).exists():
            return Dataset.read(self._work)
        tools, label_map = self._tools, self._label_map()
        return export_dataset(
            tools.label_studio, tools.settings, self._job.project_id, label_map, self._work,
            lambda done, total: self.report(images=done, stage_done=done, stage_total=total), self._is_stopped,
            model_version=base.ref, kept_splits=_splits_of(base), tiles=_look_of(base, label_map),
        )  # fmt: skip

    def _warn(self, dataset: Dataset) -> None:
        for sentence in dataset.remarks:
            log.warning("fine-tune %s: %s", self._job.id, sentence)
        if dataset.remarks:
            self.report(warnings="; ".join(dataset.remarks))

    def _label_map(self) -> LabelMap:
        xml = self._tools.label_studio.label_config(self._job.project_id)
        if not xml.strip():
            raise LabelConfigError("is empty; set up the labelling interface of the project first")
        return read_label_config(xml, prompt_map=self._tools.prompt_map)

    def _train(self, base: ModelVersion, dataset: Dataset, options: TrainOptions) -> Path:
        from worker.train import leave_a_core, train

        if dataset.tiles is not None:
            self._enter("cut into tiles")
        data = cut_training_images(dataset, self._work / "tiles", self._report_images, self._is_stopped)
        self._enter("train")
        leave_a_core()
        return train(as_source(base), data, self._work / "train", options, report=self._report_training,
                     cancelled=self._is_stopped, device=self._tools.settings.device)  # fmt: skip

    def _judge(self, base: ModelVersion, dataset: Dataset, candidate: Path) -> dict[str, object]:
        path = self._work / JUDGEMENT_FILE
        if not path.exists():
            from worker.judgement import judge

            self._enter("evaluate")
            judgement = judge(self._tools.settings, base, candidate, dataset,
                              report_images=self._report_images, cancelled=self._is_stopped)  # fmt: skip
            self._report_figures(judgement["metrics"])
            with atomic_file(path) as file:
                file.write(json.dumps(judgement).encode())
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _publish(self, base: ModelVersion, dataset: Dataset, candidate: Path,
                 judgement: dict[str, object]) -> VersionCard:  # fmt: skip
        self._enter("publish")
        shutil.copyfile(self._work / FILE_NAME, candidate / FILE_NAME)
        name, version = self._registry.next_name(self._job.project_id, base.ref)
        card = VersionCard.model_validate({
            "name": name, "version": version, "project_id": self._job.project_id, "base": base.ref,
            "job_id": self._job.id, "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": self._job.requested_by, "dataset_sha256": dataset.sha256, "counts": _counts(dataset),
            "warnings": dataset.remarks,
            **judgement, "settings": _settings_of(candidate),
            "packages": {package: package_version(package) for package in PACKAGES},
            "score_threshold": base.score_threshold, "nms_iou": base.nms_iou,
        })  # fmt: skip
        return self._registry.card(self._registry.publish(candidate, card).ref)

    def _promote(self, card: VersionCard) -> None:
        self.report(stage="promote")  # whole and published: too late to cancel
        if card.decision == "promoted":
            self._registry.promote(self._job.project_id, card.ref)
            if self._tools.settings.repredict == "unlabeled":
                self._predict_again(card)
        decision = "promoted" if card.decision == "promoted" else "refused"
        log.info("fine-tune %s: version %s %s: %s", self._job.id, card.ref, decision, card.reason)
        self._records.finish(self._job.id, version=card.ref, decision=decision, reason=card.reason)

    def _predict_again(self, card: VersionCard) -> None:
        """Tasks without annotations get the new version's boxes in place of the base's. Twice is harmless: admit()."""
        label_map, tools, project_id = self._label_map(), self._tools, self._job.project_id
        new, old = (stamp(self._registry.get(ref), label_map) for ref in (card.ref, card.base))
        config_id = tools.jobs.save_config(tools.label_studio.label_config(project_id), tools.prompt_map)
        tasks = tools.label_studio.unlabeled_tasks(project_id, label_map.image_key)
        while chunk := tuple(islice(tasks, TASKS_A_MESSAGE)):
            tools.send(ExpandJob(project_id=project_id, tasks=chunk, config_id=config_id, model=card.ref,
                                   model_version=new, replaces=old))  # fmt: skip

    # -- progress and stopping -------------------------------------------------------------------------------------

    def _enter(self, stage: str) -> None:
        self.look_for_end()
        self.report(stage=stage, stage_done="", stage_total="", eta_s="")

    def look_for_end(self) -> None:
        if self._is_stopped():
            raise JobCancelled

    def report(self, **fields: str | int | float) -> None:
        if not self._records.progress(self._job.id, **fields):
            raise JobCancelled("the job is over already")

    def _report_images(self, done: int, total: int) -> None:
        self.report(stage_done=done, stage_total=total)

    def _report_training(self, progress: Progress) -> None:
        known = {**asdict(progress), "epoch": int(progress.epoch)}
        self.report(**{name: round(value, 4) for name, value in known.items() if value is not None})

    def _report_figures(self, metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        figures = {name + end: metrics[model]["val"][name] for model, end in (("candidate", ""), ("base", "_base"))
                   for name in ("map", "weighted_map")}  # fmt: skip
        self.report(**figures)

    def _is_stopped(self) -> bool:
        """Whether someone cancelled the job. Raises TrainerStopping where it has to be left to another trainer."""
        if self.stopping.is_set():
            raise TrainerStopping
        return self._records.is_cancelled(self._job.id)


def _look_of(base: ModelVersion, label_map: LabelMap) -> TileLook | None:
    """How the project predicts large images; None: whole."""
    tiling = choose_tiling(base.tiling, label_map)
    return TileLook(tiling, label_map.lowest_threshold(base.score_threshold)) if tiling.size_px else None


def _splits_of(base: ModelVersion) -> dict[int, str]:
    """Task id -> split of the data that the base was trained with: no task ever moves."""
    directory = base.checkpoint.parent
    return dict(Dataset.read(directory).splits) if (directory / FILE_NAME).exists() else {}


def _settings_of(candidate: Path) -> dict[str, object]:
    """All options that it was trained with, and what came of them."""
    log = json.loads((candidate / "train.json").read_text(encoding="utf-8"))
    return {**log["options"], **{name: log[name] for name in ("iterations", "epochs", "seconds", "processes")}}


def _counts(dataset: Dataset) -> dict[str, int]:
    by_split = {f"images_{name}": len(dataset.split(name)) for name in ("train", "val")}
    boxes = sum(len(image.boxes) for image in dataset.images)
    return {**by_split, "boxes": boxes, "skipped_tasks": len(dataset.skipped), **dataset.tile_counts}
