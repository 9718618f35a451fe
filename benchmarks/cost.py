"""Where a task's processor time goes: the worker's threads, and Redis by command.

Called by: benchmarks/queue.py. Must not import: backend, worker, torch.
One worker with full batches; the first part of the run is left out. The main thread receives and acknowledges messages
(Celery, kombu), the others run worker.lane, one more detects. Example: `measure_cost(folder, tasks=2000)`
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil

from benchmarks.crew import BenchCrew, start_crew, wait_until
from benchmarks.load import fill_queue, open_queue, save_pictures
from benchmarks.scale import DEADLINE_S, WARM

END = 0.95  #: of the tasks, before the last batches run half empty
LEAST_US = 1.0  #: commands that take less of a task are not shown


def measure_cost(folder: Path, *, tasks: int = 2000) -> dict[str, object]:
    """Milliseconds of processor a task, by thread and in Redis; commands a task with their microseconds."""
    save_pictures(folder)
    environment = {"BATCH_SIZE": "8", "LOCAL_FILES_ROOT": str(folder)}
    prepare = partial(fill_queue, tasks=tasks)
    with start_crew(folder, workers=1, parts=(), environment=environment, prepare=prepare) as crew:
        open_queue(crew.settings, crew.client)
        began, before = _wait_for(crew, WARM * tasks), _thread_times(crew)
        crew.client.config_resetstat()
        ended, after = _wait_for(crew, END * tasks), _thread_times(crew)
        commands = crew.client.info("commandstats")
    counted = ended - began
    spent = {name: round(1000 * (after[name] - before[name]) / counted, 3) for name in after}
    return {"tasks": counted, "ms_a_task": spent, "redis_commands": _per_task(commands, counted)}


def _wait_for(crew: BenchCrew, images: float) -> int:
    wait_until(lambda: _images(crew) >= images, DEADLINE_S, "the queue")
    return _images(crew)


def _images(crew: BenchCrew) -> int:
    return sum(call.images for call in crew.calls())


def _thread_times(crew: BenchCrew) -> dict[str, float]:
    """Processor seconds so far; the first thread of a process has its number."""
    worker = psutil.Process(crew.parts["workers"][0].pid)
    times = {thread.id: thread.user_time + thread.system_time for thread in worker.threads()}
    main_s = times.pop(worker.pid)
    return {"main thread": main_s, "all other threads": sum(times.values()), "redis": crew.cpu_s()["redis"]}


def _per_task(commands: dict[str, dict[str, float]], tasks: int) -> list[dict[str, object]]:
    rows = [
        {"command": name.removeprefix("cmdstat_"), "calls_a_task": round(found["calls"] / tasks, 2),
         "us_a_task": round(found["usec"] / tasks, 1)}
        for name, found in commands.items()
    ]  # fmt: skip
    shown = [row for row in rows if float(str(row["us_a_task"])) >= LEAST_US]
    return sorted(shown, key=lambda row: -float(str(row["us_a_task"])))
