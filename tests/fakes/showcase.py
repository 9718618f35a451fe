"""Fills a Redis and a registry with a lively, made-up state, for pictures of the status page and for its tests.

Called by: docs/screenshots.py, tests/services, benchmarks. Must not import: backend, worker.
Written through contract/ alone, as the API and the workers would. Example: `Showcase(settings, client).fill()`
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Mapping, Sequence

import redis

from contract.agreement import Counts
from contract.agreement_records import AgreementRecords, Compared
from contract.cards import VersionCard
from contract.envelopes import enclose
from contract.errors import GroundcrewError, ImageNotFound, ImageUnreadable
from contract.finetune import FinetuneJob, FinetuneRecords, new_finetune
from contract.heartbeats import Heartbeat
from contract.jobs import PredictJob, job_id
from contract.labels import read_label_config
from contract.projects import ProjectFacts, Projects
from contract.registry import Registry
from contract.settings import Settings
from contract.stamps import stamp
from contract.status import JobRecords

STREET = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="car"/><Label value="truck"/><Label value="红绿灯" alias="traffic_light"/><Label value="bicycle"/>
<Label value="person" predicted_values="person,pedestrian"/><Label value="light"/></RectangleLabels></View>"""
SHELF = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="bottle"/><Label value="can"/><Label value="box"/></RectangleLabels></View>"""
DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")
LABELS = ("car", "truck", "traffic_light")
FAILURES: Sequence[GroundcrewError] = (
    ImageNotFound("https://images.example.org has no such image (404)"),
    ImageUnreadable("the image is damaged: image file is truncated (12 bytes not processed)"),
)


class Showcase:
    """Three projects, a crew, queues, a fine-tune under way, versions, and what annotators made of predictions."""

    def __init__(self, settings: Settings, client: redis.Redis, pictures: Mapping[str, bytes] | None = None) -> None:
        """`pictures`: PNGs for the versions, by name; without them each is a dot."""
        self._settings, self._redis, self._pictures = settings, client, pictures or {}
        self.records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
        self.finetunes = FinetuneRecords(client)
        self.registry = Registry(settings)
        self._beats: list[Heartbeat] = []

    def fill(self) -> None:
        self.add_versions(1)
        self.add_project(1, "Street scenes 街景", STREET)
        self.make_busy()

    def make_busy(self) -> None:
        """All but the first project and its versions, which are there already."""
        self.add_jobs(1, done=842, running=6, queued=310, failed=2)
        self.add_project(2, "Shelves", SHELF)
        self.add_jobs(2, done=240)
        self.add_project(3, "", SHELF)
        self.add_agreement(1)
        self.start_finetune(1)
        self.add_crew()

    def close(self) -> None:
        for beat in self._beats:
            beat.stop()

    # -- parts -------------------------------------------------------------------------------------------------------

    def add_project(self, project_id: int, title: str, xml: str) -> None:
        version = stamp(self.registry.current(project_id), read_label_config(xml))
        config_id = self.records.save_config(xml, {})
        facts = ProjectFacts(project_id=project_id, config_id=config_id, model_version=version, title=title)
        Projects(self._redis).remember(facts)

    def make_jobs(self, project_id: int, first: int, count: int) -> list[PredictJob]:
        facts = Projects(self._redis).get(project_id)
        assert facts is not None
        return [
            PredictJob(
                project_id=project_id, task_id=task, image=f"/data/upload/{project_id}/{task}.png",
                config_id=facts.config_id, model=facts.model_version.rpartition(".")[0],
                model_version=facts.model_version, id=job_id(project_id, task, facts.model_version),
                enqueued_at_s=time.time() - 75,
            )
            for task in range(first, first + count)
        ]  # fmt: skip

    def add_jobs(self, project_id: int, *, done: int = 0, running: int = 0, queued: int = 0, failed: int = 0) -> None:
        """Jobs of consecutive tasks, from task 1 on; queued ones have their message, too."""
        jobs = self.make_jobs(project_id, 1, done + running + queued + failed)
        self.records.admit(jobs)
        for place, job in enumerate(jobs[: done + running + failed]):
            self.records.start(job, redelivered=False, worker="worker-71@gpu-1")
            if place < done:
                self.records.finish(job.id, job.run, project_id, boxes=place % 7)
            elif place < done + failed:
                self.records.fail(job.id, job.run, project_id, FAILURES[place % len(FAILURES)])
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs[done + running + failed :]:
                pipe.lpush(*enclose(job, self._settings.queue_shards))
            pipe.execute()

    def start_finetune(self, project_id: int) -> FinetuneJob:
        job = new_finetune(project_id, "label-studio")
        self.finetunes.request(job)
        self.finetunes.start(job, "trainer-80@gpu-1")
        self.finetunes.progress(job.id, stage="train", images=212, base=self.registry.current(project_id).ref, epoch=3,
                                iteration=140, iterations=400, loss=1.287, eta_s=252, map=0.713,
                                weighted_map=0.688)  # fmt: skip
        return job

    def fail_finetune(self, project_id: int, error: GroundcrewError) -> None:
        job = new_finetune(project_id, "page")
        self.finetunes.request(job)
        self.finetunes.start(job, "trainer-80@gpu-1")
        self.finetunes.fail(job.id, error)

    def add_versions(self, project_id: int) -> None:
        """Two fine-tunes of the base: one better and in use, one refused."""
        base = _metrics(0.385, 0.412, 0.553, 0.997, car=0.61, truck=0.35, traffic_light=0.18)
        better = _metrics(0.641, 0.664, 0.817, 0.991, car=0.78, truck=0.57, traffic_light=0.64)
        forgot = _metrics(0.648, 0.671, 0.822, 0.931, car=0.79, truck=0.6, traffic_light=0.62)
        kept = "AP50 on the base's own held-out images went from 0.997"
        others = "on other images like these 32"
        reason = f"weighted mAP on val went from 0.385 to 0.641 ({others}: +0.205 to +0.301); {kept} to 0.991."
        refused = (f"weighted mAP on val went from 0.385 to 0.648 ({others}: +0.210 to +0.308), but {kept} to 0.931: "
                   "more than 0.02 was forgotten.")  # fmt: skip
        self.publish(project_id, 1, {"base": base, "candidate": better}, "promoted", reason,
                     verdict="better", evidence=_evidence(0.256, 0.205, 0.301))  # fmt: skip
        self.publish(project_id, 2, {"base": base, "candidate": forgot}, "refused", refused,
                     verdict="forgot", evidence=_evidence(0.263, 0.210, 0.308))  # fmt: skip
        self.registry.promote(project_id, f"{self.registry.base.name}-p{project_id}-1")

    def publish(self, project_id: int, number: int, metrics: object, decision: str, reason: str,
                **fields: object) -> str:  # fmt: skip
        """A version whose weights are a few bytes: nobody loads them."""
        folder = self._settings.local_model_dir / f".showcase-{project_id}-{number}"
        folder.mkdir(parents=True)
        (folder / "config.py").write_text("model = 1\n", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"weights")
        for name in ("loss.png", "pr.png"):
            (folder / name).write_bytes(self._pictures.get(name, DOT))
        card = VersionCard.model_validate({
            "name": f"{self.registry.base.name}-p{project_id}", "version": str(number), "project_id": project_id,
            "base": self.registry.base.ref, "job_id": f"ft-{project_id}-{number:08x}", "made_by": "label-studio",
            "created_at": f"2026-11-2{number}T09:30:00+00:00", "metrics": metrics, "decision": decision,
            "reason": reason, "counts": {"images_train": 180, "images_val": 32, "boxes": 1204}, **fields,
        })  # fmt: skip
        return self.registry.publish(folder, card).ref

    def add_agreement(self, project_id: int) -> None:
        """Annotations beside the base's predictions, and beside the next version's, which needed fewer corrections."""
        dice = random.Random(8)
        versions = [(self.registry.base.ref, 0.55), (self.registry.current(project_id).ref, 0.85)]
        for place, (version, quality) in enumerate(versions):
            compared = [
                Compared(1000 * place + task, task, time.time(), f"{version}.3fa2c19b", {
                    label: _made_up(dice, quality - 0.1 * rank) for rank, label in enumerate(LABELS)
                })
                for task in range(1, 61)
            ]  # fmt: skip
            AgreementRecords(self._redis).put(project_id, compared, now_s=time.time() + place)

    def add_crew(self) -> None:
        """Three processes that say they are alive, until close()."""
        base = self.registry.base.ref
        for name, facts in (
            ("worker-71@gpu-1", {"role": "predict", "device": "cuda:0", "model": base, "images_per_s": 41.7}),
            ("writer-78@gpu-1", {"role": "write", "label_studio": self._settings.label_studio_url}),
            ("trainer-80@gpu-1", {"role": "train", "device": "cuda:1"}),
        ):
            beat = Heartbeat(self._redis, name, lambda facts=facts: facts)
            beat.start()
            self._beats.append(beat)


def _metrics(weighted: float, mean: float, ap50: float, general: float, **per_class: float) -> dict[str, object]:
    on_val = {"weighted_map": weighted, "map": mean, "ap50": ap50, "per_class_ap": per_class}
    return {"val": on_val, "general": {"ap50": general}}


def _evidence(rise: float, lowest: float, highest: float) -> dict[str, float | bool]:
    return {"rise": rise, "lowest": lowest, "highest": highest, "confidence": 0.9, "images": 32, "few_images": False}


def _made_up(dice: random.Random, quality: float) -> Counts:
    fates = [dice.random() for _ in range(dice.randint(1, 5))]
    kept = sum(fate < quality * 0.8 for fate in fates)
    moved = sum(quality * 0.8 <= fate < quality for fate in fates)
    return Counts(kept=kept, moved=moved, deleted=len(fates) - kept - moved, added=int(dice.random() > quality))
