"""Notices a worker that is connected but does not consume any more: jobs wait, it has a free slot, and nothing comes.

Called by: worker.app. Must not import: torch, Flask.
Seen with Celery after Redis was away (celery issues 8030 and 10205). Nothing inside the process mends it, so it leaves
and its supervisor starts it again. Example: `Ears(client, name, queues, slots=16, leave=...).start()`
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import redis
from celery.signals import task_received, worker_shutting_down
from celery.worker import state

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
DEAF_AFTER_S = 30.0  #: far longer than a queue that has messages stays silent for a consumer with a free slot


class Ears:
    """Watches one consumer of this process, by its host name."""

    def __init__(self, client: redis.Redis, name: str, queues: Sequence[str], *, slots: int,
                 leave: Callable[[], None], after_s: float = DEAF_AFTER_S) -> None:  # fmt: skip
        self._redis, self._name, self._queues, self._slots = client, name, queues, slots
        self._leave, self._after_s = leave, after_s
        self._heard_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"ears {name}", daemon=True)

    def start(self) -> None:
        """Once the consumer is ready."""
        task_received.connect(self._hear, weak=False)
        worker_shutting_down.connect(lambda **_: self.stop(), weak=False)
        self._heard_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def is_deaf(self) -> bool:
        """Whether it should have heard something for `after_s` seconds, and has not."""
        if not self._waits() or self._in_hand() >= self._slots:
            self._heard_s = time.monotonic()
            return False
        return time.monotonic() - self._heard_s > self._after_s

    def _hear(self, sender: object, **_: object) -> None:
        if getattr(sender, "hostname", "") == self._name:
            self._heard_s = time.monotonic()

    def _waits(self) -> bool:
        with self._redis.pipeline(transaction=False) as pipe:
            for queue in self._queues:
                pipe.llen(queue)
            return any(pipe.execute())

    def _in_hand(self) -> int:
        return sum(request.hostname == self._name for request in state.reserved_requests.copy())

    def _loop(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                deaf = self.is_deaf()
            except redis.RedisError:  # then it cannot be its fault
                self._heard_s = time.monotonic()
                continue
            if deaf and not self._stop.is_set():
                log.critical("%s has consumed nothing for %g s while jobs wait; leaving", self._name, self._after_s)
                self._leave()
                return
