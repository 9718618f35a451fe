"""What the benchmarks ask the crew: tasks with an image on disk, requests as Label Studio sends them, percentiles.

Called by: the benchmarks. Must not import: backend, worker, torch.
Example: `body = predict_body([1], context=typed("red circle"))`
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import redis
from PIL import Image

from contract.broker import make_celery, send
from contract.jobs import PredictJob, bulk_queue, job_id
from contract.settings import Settings
from contract.status import JobRecords
from groundcrew.demo.scenes import make_label_config

PROJECT = 1
MODEL = "tiny-shapes-1"
VERSION = f"{MODEL}.benchmark"
PICTURES = 20
PICTURE_PX = (64, 48)
PARKED = "bench:parked"
CHUNK = 500


def save_pictures(folder: Path, pictures: Sequence[bytes] = ()) -> None:
    """`<number>.png` for LOCAL_FILES_ROOT: the given ones, or small ones of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        content = pictures[number] if pictures else _plain_picture(number)
        (folder / f"{number}.png").write_bytes(content)


def _plain_picture(number: int) -> bytes:
    content = io.BytesIO()
    colour = tuple(int(level) for level in np.random.default_rng(number).integers(0, 256, 3))
    Image.new("RGB", PICTURE_PX, colour).save(content, "png")
    return content.getvalue()


def address(task: int) -> str:
    """Of a task's image; many tasks share a picture."""
    return f"/data/local-files/?d={task % PICTURES}.png"


def fill_queue(settings: Settings, client: redis.Redis, tasks: int) -> None:
    """Record and queue tasks as the API and the writer do it, then park the queue where no worker looks."""
    records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
    config_id = records.save_config(make_label_config(), {})
    app = make_celery(settings)
    for first in range(1, tasks + 1, CHUNK):
        jobs = [_job(number, config_id) for number in range(first, min(first + CHUNK, tasks + 1))]
        send(app, records.admit(jobs), shards=settings.queue_shards)
    client.rename(queue_of(settings), PARKED)


def open_queue(settings: Settings, client: redis.Redis) -> None:
    """Give what is parked to the workers, all at once."""
    client.rename(PARKED, queue_of(settings))


def queue_of(settings: Settings) -> str:
    return bulk_queue(PROJECT, settings.queue_shards)


def _job(number: int, config_id: str) -> PredictJob:
    return PredictJob(
        project_id=PROJECT, task_id=number, image=address(number), config_id=config_id,
        model=MODEL, model_version=VERSION, id=job_id(PROJECT, number, VERSION),
    )  # fmt: skip


def predict_body(tasks: Sequence[int], *, context: dict[str, object] | None = None) -> dict[str, object]:
    """Of POST /predict; `context` makes it an interactive request."""
    return {
        "tasks": [{"id": task, "data": {"image": address(task)}} for task in tasks],
        "project": f"{PROJECT}.1795562812",
        "label_config": make_label_config(),
        "params": {} if context is None else {"context": context},
    }


def typed(text: str) -> dict[str, object]:
    """The context of a prompt typed in the editor."""
    return {"result": [{"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": [text]}}]}


def webhook_body(first: int, count: int, *, name: str) -> dict[str, object]:
    """TASKS_CREATED, with addresses as long as those of uploads."""
    return {
        "action": "TASKS_CREATED",
        "project": {"id": PROJECT, "title": "benchmark", "label_config": make_label_config()},
        "tasks": [{"id": first + n, "data": {"image": f"{name}{first + n:06d}.jpg"}} for n in range(count)],
    }


def time_s(action: Callable[[], object]) -> float:
    began_s = time.monotonic()
    action()
    return time.monotonic() - began_s


def as_percentiles(name: str, times_s: Sequence[float]) -> dict[str, float]:
    """`<name>_p50_ms`, `_p95_ms` and `_max_ms`."""
    cuts = statistics.quantiles(times_s, n=20, method="inclusive")
    found = {"p50": statistics.median(times_s), "p95": cuts[-1], "max": max(times_s)}
    return {f"{name}_{which}_ms": round(1000 * value, 1) for which, value in found.items()}
