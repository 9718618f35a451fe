"""Whether there is room: for one more waiting request in this process, and for more jobs in Redis.

Called by: backend.dispatch. Must not import: Flask, worker.
A full system says so at once with a 503 and Retry-After; it never takes what it would lose.
Example: `room.check(len(images), project_id)` raises QueueFull; `with room.seat() as seated: ...`
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from contract.errors import QueueFull
from contract.settings import Settings
from contract.status import JobRecords

SEATS = 24  #: requests that may wait at a time: below the API's 32 threads, so that /health always finds one
FULL_MEMORY = 0.8  #: of Redis's maxmemory; beyond it Redis kills workers, so new jobs are refused first


class Room:
    """The limits of one API process and of its Redis."""

    def __init__(self, settings: Settings, client: redis.Redis, records: JobRecords, *, seats: int = SEATS) -> None:
        self._settings = settings
        self._redis = client
        self._records = records
        self._seats = threading.BoundedSemaphore(seats)

    @contextmanager
    def seat(self) -> Iterator[bool]:
        """Whether this request may wait."""
        seated = self._seats.acquire(blocking=False)
        try:
            yield seated
        finally:
            if seated:
                self._seats.release()

    def check(self, new_jobs: int, project_id: int) -> None:
        """Raises QueueFull, which names the limit."""
        limit = self._settings.max_waiting_per_project
        if self._records.counts(project_id)["queued"] + new_jobs > limit:
            raise QueueFull(f"MAX_WAITING_PER_PROJECT={limit} jobs of project {project_id} are waiting; ask later")
        if self._records.open_count() + new_jobs > self._settings.queue_limit:
            raise QueueFull(f"QUEUE_LIMIT={self._settings.queue_limit} jobs are waiting; start more workers, or wait")
        memory = self._redis.info("memory")
        limit_bytes = int(memory.get("maxmemory", 0))
        if limit_bytes and int(memory["used_memory"]) > FULL_MEMORY * limit_bytes:
            raise QueueFull(f"Redis uses over {FULL_MEMORY:.0%} of its maxmemory; raise it, or wait for workers")
