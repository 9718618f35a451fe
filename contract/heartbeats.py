"""Which processes are alive: each beats in Redis every few seconds and is forgotten when it stops.

Called by: worker.app (beats), backend.routes, groundcrew (look). Must not import: Celery, Flask.
Example: `alive(client)` -> [{"name": "worker-7@host", "role": "predict", "device": "cpu", ...}]
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from contract.meters import TALLY
from contract.rounds import Rounds

log = logging.getLogger(__name__)

BEAT_EVERY_S = 3.0
TTL_S = 12  #: four missed beats
INDEX = "gc:alive"  #: names of processes by the Unix time of their last beat, so that nobody has to scan for them


def alive(client: redis.Redis) -> list[dict[str, object]]:
    """What each living process last said of itself, by name."""
    names = sorted(str(name) for name in client.zrange(INDEX, time.time() - TTL_S, "inf", byscore=True))
    bodies = client.mget([f"gc:alive:{name}" for name in names]) if names else []
    return [json.loads(body) for body in bodies if body is not None]


def held(client: redis.Redis) -> set[str]:
    """Delivery tags of the messages that living processes have in hand."""
    names = [str(name) for name in client.zrange(INDEX, time.time() - TTL_S, "inf", byscore=True)]
    bodies = client.mget([_held(name) for name in names]) if names else []
    return {tag for body in bodies if body is not None for tag in json.loads(body)}


def _held(name: str) -> str:
    return f"gc:held:{name}"


def _nothing() -> list[str]:
    return []


class Heartbeat:
    """A thread that says `facts()` in Redis until stop(); the record goes at once on stop, by itself after a crash.

    `holds()` names the messages in its hands, so that those of a dead process can be told from those of a busy one.
    With each beat, and with the last one, goes what the process has counted (contract.meters). `alive_file` is touched
    with each beat that Redis took, so that a health check costs nothing.
    """

    def __init__(self, client: redis.Redis, name: str, facts: Callable[[], Mapping[str, object]],
                 holds: Callable[[], list[str]] = _nothing, alive_file: Path | None = None) -> None:  # fmt: skip
        self._redis, self._name, self._facts, self._holds = client, name, facts, holds
        self._alive_file = alive_file
        self._rounds = Rounds("heartbeat", self._try, every_s=BEAT_EVERY_S, at_once=True)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()
        self._redis.delete(f"gc:alive:{self._name}", _held(self._name))
        TALLY.push(self._redis)

    def _beat(self) -> None:
        with self._redis.pipeline() as pipe:
            pipe.set(f"gc:alive:{self._name}", self._body(), ex=TTL_S)
            pipe.set(_held(self._name), json.dumps(self._holds()), ex=TTL_S)
            pipe.zadd(INDEX, {self._name: time.time()})
            pipe.zremrangebyscore(INDEX, "-inf", time.time() - 100 * TTL_S)
            pipe.execute()
        TALLY.push(self._redis)
        if self._alive_file is not None:
            self._alive_file.touch()

    def _body(self) -> str:
        return json.dumps({"name": self._name, "beat_s": time.time(), **self._facts()})

    def _try(self) -> None:
        try:
            self._beat()
        except redis.RedisError as error:
            log.debug("no heartbeat: %s", error)
        except Exception:  # without a beat its work is given to others, so it has to go on whatever a fact says
            log.exception("no heartbeat")
