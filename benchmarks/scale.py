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

from benchmarks.crew import start_crew, wait_until
from benchmarks.load import fill_queue, open_queue, save_pictures
from benchmarks.metered_worker import Call

DEADLINE_S = 150.0
TASKS_A_WORKER = {1: 150, 8: 500}  #: by batch limit: a few seconds of work
WARM = 0.2  #: of the tasks, before processor time counts: each worker's first ones import and connect
MIDDLE = (0.1, 0.9)  #: the share of images between which the rate is measured


def measure_scale(folder: Path, *, workers: int, batch: int, tasks: int | None = None) -> dict[str, float]:
    """One crew of so many workers; images_per_s, cpu_s_per_1000_tasks (workers, Redis), tasks_per_core_s."""
    tasks = tasks or workers * TASKS_A_WORKER[batch]
    save_pictures(folder)
    environment = {"BATCH_SIZE": str(batch), "LOCAL_FILES_ROOT": str(folder)}
    prepare = partial(fill_queue, tasks=tasks)
    with start_crew(folder, workers=workers, parts=(), environment=environment, prepare=prepare) as crew:
        open_queue(crew.settings, crew.client)
        wait_until(lambda: _images(crew.calls()) >= WARM * tasks, DEADLINE_S, "the first part of the queue")
        began, before = _images(crew.calls()), crew.cpu_s()
        wait_until(lambda: _images(crew.calls()) >= tasks, DEADLINE_S, "the queue")
        time.sleep(0.2)  # the last boxes are on their way
        cpu_s = {name: now - before[name] for name, now in crew.cpu_s().items()}
        return _figures(workers, batch, tasks, crew.calls(), {name: s / (tasks - began) for name, s in cpu_s.items()})


def _images(calls: Sequence[Call]) -> int:
    return sum(call.images for call in calls)


def _figures(workers: int, batch: int, tasks: int, calls: Sequence[Call], cpu_s: dict[str, float]) -> dict[str, float]:
    """`cpu_s`: processor seconds of a task, by part."""
    return {
        "workers": workers,
        "batch_limit": batch,
        "tasks": tasks,
        "images_per_s": round(middle_rate(calls), 1),
        "images_a_call": round(tasks / len(calls), 2),
        **{f"{name}_cpu_s_per_1000": round(1000 * spent, 3) for name, spent in cpu_s.items()},
        "tasks_per_core_s": round(1 / sum(cpu_s.values()), 1),
    }


def middle_rate(calls: Sequence[Call]) -> float:
    """Images a second without the beginning and the end of the run."""
    ordered = sorted(calls, key=lambda call: call.ended_s)
    first, last = (ordered[int(share * (len(ordered) - 1))] for share in MIDDLE)
    images = sum(call.images for call in ordered if first.ended_s < call.ended_s <= last.ended_s)
    return images / (last.ended_s - first.ended_s)
