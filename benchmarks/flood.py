"""A hundred thousand tasks in webhooks of five thousand: how fast each is answered, and what they cost in memory.

Called by: benchmarks/queue.py. Must not import: backend, worker, torch.
The worker is suspended while the queue fills, so that all tasks wait at once; then it works for a while.
Example: `measure_flood(folder, tasks=100_000)["webhook_max_ms"]`
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
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
    with start_crew(folder, workers=1, environment={"LOCAL_FILES_ROOT": str(folder)}) as crew:
        worker = psutil.Process(crew.parts["workers"][0].pid)
        worker.suspend()
        try:
            before = crew.rss_bytes()
            with Memory(crew) as memory:
                figures = _fill(crew, tasks)
                redis_bytes = crew.rss_bytes()["redis"] - before["redis"]
                worker.resume()
                time.sleep(work_s)
        finally:
            worker.resume()
    return figures | {"redis_bytes_a_waiting_task": round(redis_bytes / tasks)} | memory.figures(before)


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

    def figures(self, before: dict[str, int]) -> dict[str, object]:
        """MiB by part: before, at most, and at the end; and about ten samples of Redis and the API on the way."""
        shown = self._samples[:: max(1, len(self._samples) // 10)]
        return {
            "memory_mib": {
                part: {
                    "before": round(before[part] / MIB, 1),
                    "most": round(max(sample[part] for sample in self._samples) / MIB, 1),
                    "end": round(self._samples[-1][part] / MIB, 1),
                    "over_time": [round(sample[part] / MIB, 1) for sample in shown],
                }
                for part in before
            }
        }

    def _loop(self) -> None:
        while True:
            self._samples.append(self._crew.rss_bytes())
            if self._stop.wait(SAMPLE_EVERY_S):
                return
