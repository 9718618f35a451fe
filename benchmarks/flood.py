"""A hundred thousand tasks in webhooks of five thousand: how fast each is answered, and what they cost in memory.

Called by: benchmarks/queue.py. Must not import: backend, worker, torch.
The worker starts when the queue is full, so that all tasks wait at once, and works for a while.
Example: `measure_flood(folder, tasks=100_000)["webhook_max_ms"]`
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import requests

from benchmarks.crew import BenchCrew, start_crew, wait_until
from benchmarks.load import as_percentiles, time_s, webhook_body
from contract.status import JobRecords

WEBHOOK_TASKS = 5000  #: as Label Studio sends them
EXPAND_DEADLINE_S = 160.0
WORK_S = 15.0
SAMPLE_EVERY_S = 1.0
NAME = "/data/upload/12/3f2a9c1b-frame_"  #: of an uploaded image, before its number
MIB = 2**20


def measure_flood(folder: Path, *, tasks: int = 100_000, work_s: float = WORK_S) -> dict[str, object]:
    """Milliseconds a webhook, seconds until all wait, Redis bytes a waiting task, memory of each part over time."""
    with start_crew(folder, workers=0, environment={"LOCAL_FILES_ROOT": str(folder)}) as crew:
        before = crew.rss_bytes()
        with Memory(crew) as memory:
            figures = _fill(crew, tasks)
            redis_bytes = crew.rss_bytes()["redis"] - before["redis"]
            crew.start_workers(1)
            time.sleep(work_s)
    return figures | {"redis_bytes_a_waiting_task": round(redis_bytes / tasks)} | memory.figures()


def _fill(crew: BenchCrew, tasks: int) -> dict[str, object]:
    records = JobRecords(crew.client, failed_memory_s=600)
    began_s = time.monotonic()
    with requests.Session() as session:
        times_s = [time_s(lambda first=first: _post(crew, session, first, min(WEBHOOK_TASKS, tasks)))
                   for first in range(1, tasks + 1, WEBHOOK_TASKS)]  # fmt: skip
    answered_s = time.monotonic() - began_s
    wait_until(lambda: records.open_count() >= tasks, EXPAND_DEADLINE_S, "recording all tasks")
    spent_s = time.monotonic() - began_s
    found: dict[str, object] = {"tasks": tasks, "webhooks": len(times_s), "all_answered_s": round(answered_s, 2)}
    return found | {"all_waiting_s": round(spent_s, 2)} | as_percentiles("webhook", [*times_s, *times_s])


def _post(crew: BenchCrew, session: requests.Session, first: int, count: int) -> None:
    session.post(f"{crew.url}/webhook", json=webhook_body(first, count, name=NAME), timeout=60).raise_for_status()


class Memory:
    """Samples of each part's memory, taken by a thread while the block runs."""

    def __init__(self, crew: BenchCrew) -> None:
        self._crew = crew
        self._samples: list[dict[str, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory")

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self) -> dict[str, object]:
        """MiB by part, about ten samples from its start to the end."""
        parts = self._samples[-1]
        return {"memory_mib": {part: self._over_time(part) for part in parts}}

    def _over_time(self, part: str) -> list[float]:
        known = [round(sample[part] / MIB, 1) for sample in self._samples if part in sample]
        return [*known[: -1 : max(1, len(known) // 9)], known[-1]]

    def _loop(self) -> None:
        while True:
            self._samples.append(self._crew.rss_bytes())
            if self._stop.wait(SAMPLE_EVERY_S):
                return
