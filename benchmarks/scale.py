"""Images a second with more and more workers, and the processor seconds that a thousand tasks cost.

Called by: benchmarks/queue.py. Must not import: backend, torch.
The queue is filled before the workers start and opened to them at once, so that filling it costs them nothing. A task
is a small image on disk; its boxes end as write-back messages. Example: `measure_scale(folder, workers=4, batch=8)`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import redis
from PIL import Image

from benchmarks.crew import start_crew, wait_until
from benchmarks.metered_worker import Call
from contract.broker import make_celery, send
from contract.jobs import PredictJob, bulk_queue, job_id
from contract.settings import Settings
from contract.status import JobRecords
from groundcrew.demo.scenes import make_label_config

PROJECT = 1
MODEL = "tiny-shapes-1"
VERSION = f"{MODEL}.benchmark"
IMAGE_PX = (64, 48)
IMAGE_NAME = "plain.png"
PARKED = "bench:parked"
CHUNK = 500
DEADLINE_S = 150.0
TASKS_A_WORKER = {1: 150, 8: 500}  #: by batch limit: a few seconds of work
MIDDLE = (0.1, 0.9)  #: the share of images between which the rate is measured


def save_image(folder: Path) -> None:
    """The image of every task, as LOCAL_FILES_ROOT has it."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", IMAGE_PX, "red").save(folder / IMAGE_NAME)


def measure_scale(folder: Path, *, workers: int, batch: int, tasks: int | None = None) -> dict[str, float]:
    """One crew of so many workers; images_per_s, cpu_s_per_1000_tasks (workers, Redis), tasks_per_core_s."""
    tasks = tasks or workers * TASKS_A_WORKER[batch]
    save_image(folder)
    environment = {"BATCH_SIZE": str(batch), "LOCAL_FILES_ROOT": str(folder)}
    prepare = partial(fill, tasks=tasks)
    with start_crew(folder, workers=workers, parts=(), environment=environment, prepare=prepare) as crew:
        before = crew.cpu_s()
        crew.client.rename(PARKED, _queue(crew.settings))
        wait_until(lambda: sum(call.images for call in crew.calls()) >= tasks, DEADLINE_S, "the queue")
        time.sleep(0.2)  # the last boxes are on their way
        cpu_s = {name: now - before[name] for name, now in crew.cpu_s().items()}
        return _figures(workers, batch, tasks, crew.calls(), cpu_s)


def _figures(workers: int, batch: int, tasks: int, calls: Sequence[Call], cpu_s: dict[str, float]) -> dict[str, float]:
    return {
        "workers": workers,
        "batch_limit": batch,
        "tasks": tasks,
        "images_per_s": round(middle_rate(calls), 1),
        "images_a_call": round(tasks / len(calls), 2),
        **{f"{name}_cpu_s_per_1000": round(1000 * spent / tasks, 3) for name, spent in cpu_s.items()},
        "tasks_per_core_s": round(tasks / sum(cpu_s.values()), 1),
    }


def middle_rate(calls: Sequence[Call]) -> float:
    """Images a second without the beginning and the end of the run."""
    ordered = sorted(calls, key=lambda call: call.ended_s)
    first, last = (ordered[int(share * (len(ordered) - 1))] for share in MIDDLE)
    images = sum(call.images for call in ordered if first.ended_s < call.ended_s <= last.ended_s)
    return images / (last.ended_s - first.ended_s)


def fill(settings: Settings, client: redis.Redis, tasks: int) -> None:
    """Record and queue tasks as the API and the writer do it, then park the queue where no worker looks."""
    records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
    config_id = records.save_config(make_label_config(), {})
    app = make_celery(settings)
    for first in range(1, tasks + 1, CHUNK):
        jobs = [_job(number, config_id) for number in range(first, min(first + CHUNK, tasks + 1))]
        send(app, records.admit(jobs), shards=settings.queue_shards)
    client.rename(_queue(settings), PARKED)


def _job(number: int, config_id: str) -> PredictJob:
    return PredictJob(
        project_id=PROJECT, task_id=number, image=f"/data/local-files/?d={IMAGE_NAME}", config_id=config_id,
        model=MODEL, model_version=VERSION, id=job_id(PROJECT, number, VERSION),
    )  # fmt: skip


def _queue(settings: Settings) -> str:
    return bulk_queue(PROJECT, settings.queue_shards)
