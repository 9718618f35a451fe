"""Which processes are alive: each beats in Redis every few seconds and is forgotten when it stops.

Called by: worker.app (beats), backend.routes, groundcrew (look). Must not import: Celery, Flask.
Example: `alive(client)` -> [{"name": "worker-7@host", "role": "predict", "device": "cpu", ...}]
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping

import redis

from contract.meters import TALLY

log = logging.getLogger(__name__)

BEAT_EVERY_S = 3.0
TTL_S = 12  #: four missed beats
INDEX = "gc:alive"  #: names of processes by the Unix time of their last beat, so that nobody has to scan for them


def alive(client: redis.Redis) -> list[dict[str, object]]:
    """What each living process last said of itself, by name."""
    names = sorted(str(name) for name in client.zrange(INDEX, time.time() - TTL_S, "inf", byscore=True))
    bodies = client.mget([f"gc:alive:{name}" for name in names]) if names else []
    return [json.loads(body) for body in bodies if body is not None]


class Heartbeat:
    """A thread that says `facts()` in Redis until stop(); the record goes at once on stop, by itself after a crash.

    With each beat, and with the last one, goes what the process has counted (contract.meters).
    """

    def __init__(self, client: redis.Redis, name: str, facts: Callable[[], Mapping[str, object]]) -> None:
        self._redis, self._name, self._facts = client, name, facts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._redis.delete(f"gc:alive:{self._name}")
        TALLY.push(self._redis)

    def _beat(self) -> None:
        with self._redis.pipeline() as pipe:
            pipe.set(f"gc:alive:{self._name}", self._body(), ex=TTL_S)
            pipe.zadd(INDEX, {self._name: time.time()})
            pipe.zremrangebyscore(INDEX, "-inf", time.time() - 100 * TTL_S)
            pipe.execute()
        TALLY.push(self._redis)

    def _body(self) -> str:
        return json.dumps({"name": self._name, "beat_s": time.time(), **self._facts()})

    def _loop(self) -> None:
        while True:
            try:
                self._beat()
            except redis.RedisError as error:
                log.debug("no heartbeat: %s", error)
            if self._stop.wait(BEAT_EVERY_S):
                return
