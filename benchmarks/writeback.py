"""Predictions a second into a real Label Studio on SQLite, and how long one prediction alone takes to be stored.

Called by: benchmarks/queue.py. Must not import: backend, worker, torch.
Only the writer runs. What it is to store waits before it is let go, so that sending costs nothing here.
Example: `measure_writeback(folder, tasks=2000)["predictions_per_s"]`
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.crew import BenchCrew, start_crew, wait_until
from benchmarks.labelled import start_label_studio
from benchmarks.load import CHUNK, MODEL, PARKED, VERSION, address, time_s
from contract.envelopes import enclose
from contract.jobs import WRITE_QUEUE, Prediction, PredictJob, WriteBackJob, job_id
from contract.labels import read_label_config
from contract.regions import DetectedBox, boxes_to_result
from contract.status import JobRecords
from groundcrew.demo.scenes import make_label_config

BOXES = 5
SIDE_PX = 1000
ALONE = 10  #: predictions stored one by one
DEADLINE_S = 150.0


def measure_writeback(folder: Path, *, tasks: int = 2000) -> dict[str, float]:
    """predictions_per_s of a full queue, alone_p50_ms, processor seconds of the writer a thousand predictions."""
    with start_label_studio(folder) as site:
        project = site.make_project(tasks + ALONE)
        ids = sorted(site.client.image_names(project))
        environment = site.environment(folder)
        with start_crew(folder, workers=0, parts=("writer",), environment=environment) as crew:
            rate = Store(crew, project)
            rate.send(ids[:tasks], to=PARKED)
            before = crew.cpu_s()
            stored_s = time_s(lambda: rate.release(tasks))
            cpu_s = crew.cpu_s()["writer"] - before["writer"]
            alone_s = [time_s(lambda done=done: rate.store_one(ids[done], done + 1)) for done in range(tasks, len(ids))]
        assert len(site.client.predictions(project)) == len(ids), "each prediction is stored once"
    return {
        "predictions": tasks,
        "boxes_each": BOXES,
        "predictions_per_s": round(tasks / stored_s, 1),
        "writer_cpu_s_per_1000": round(1000 * cpu_s / tasks, 3),
        "alone_p50_ms": round(1000 * statistics.median(alone_s), 1),
        "alone_max_ms": round(1000 * max(alone_s), 1),
    }


class Store:
    """Write-backs of one project, sent to a writer."""

    def __init__(self, crew: BenchCrew, project_id: int) -> None:
        self._crew, self._project_id = crew, project_id
        self._records = JobRecords(crew.client, failed_memory_s=600)
        label_map = read_label_config(make_label_config(), prompt_map={})
        boxes = [DetectedBox(10 * n, 10 * n, 10 * n + 100, 10 * n + 80, 0.9, n) for n in range(BOXES)]
        self._result = boxes_to_result(label_map, boxes, width_px=SIDE_PX, height_px=SIDE_PX, score_threshold=0.3)

    def send(self, task_ids: Sequence[int], *, to: str = WRITE_QUEUE) -> None:
        """Recorded, and put on a list."""
        shards = self._crew.settings.queue_shards
        for start in range(0, len(task_ids), CHUNK):
            jobs = [self._job(task_id) for task_id in task_ids[start : start + CHUNK]]
            self._records.admit(jobs)
            self._crew.client.lpush(to, *[enclose(self._write(job), shards).message for job in jobs])

    def release(self, tasks: int) -> None:
        """Let the writer have what is parked; returns when it is stored."""
        self._crew.client.rename(PARKED, WRITE_QUEUE)
        self._wait_for(tasks)

    def store_one(self, task_id: int, done: int) -> None:
        self.send([task_id])
        self._wait_for(done)

    def _wait_for(self, done: int) -> None:
        wait_until(lambda: self._records.counts(self._project_id)["done"] >= done, DEADLINE_S, "storing predictions")

    def _job(self, task_id: int) -> PredictJob:
        return PredictJob(
            project_id=self._project_id, task_id=task_id, image=address(task_id), config_id="none",
            model=MODEL, model_version=VERSION, id=job_id(self._project_id, task_id, VERSION),
        )  # fmt: skip

    def _write(self, job: PredictJob) -> WriteBackJob:
        prediction = Prediction(task_id=job.task_id, model_version=VERSION, score=0.9, result=self._result)
        asked_at_s = job.enqueued_at_s
        return WriteBackJob(
            id=job.id, run=job.run, project_id=job.project_id, prediction=prediction, asked_at_s=asked_at_s
        )
