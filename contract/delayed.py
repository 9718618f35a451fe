"""Work that waits for its time: a sorted set in Redis, sent when due. Never Celery's countdown, eta or retry.

Called by: worker.tasks (adds), worker.reconcile (sends what is due). Must not import: Flask, torch.
On Redis a countdown longer than the visibility timeout runs again and again (one of 17 s ran 4 times at 5 s).
Example: `delayed.add(job, after_s=backoff_s(job.attempt))`
"""

from __future__ import annotations

import hashlib
import json
import random
import time

import redis

from contract.envelopes import message_id
from contract.jobs import CompareJob, ExpandJob, FinetuneJob, Job, NotifyJob, PredictJob, WriteBackJob

KEY = "gc:delayed"  #: sorted set of the waiting messages' ids, by the Unix time at which they are due
BODIES = "gc:delayed:bodies"  #: hash: id -> message
LONGEST_BACKOFF_S = 60.0
_ALL = (PredictJob, WriteBackJob, ExpandJob, CompareJob, FinetuneJob, NotifyJob)
_KINDS: dict[str, type[Job]] = {kind.name: kind for kind in _ALL}


def backoff_s(attempt: int) -> float:
    """1, 2, 4 ... 60 seconds, each times 0.5 to 1.5, so that many failures do not come back at the same moment."""
    return min(2.0 ** min(attempt, 10), LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


class Delayed:
    """The waiting room of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, job: Job, *, after_s: float) -> None:
        """A job of the same id that waits already is replaced."""
        body = dump_message(job)
        key = _id(job, body)
        with self._redis.pipeline() as pipe:
            pipe.hset(BODIES, key, body)
            pipe.zadd(KEY, {key: time.time() + after_s})
            pipe.execute()

    def due(self, limit: int = 500) -> list[tuple[str, Job]]:
        """(id, job) of what is due; give the id to drop() once the job is sent."""
        return self._read([str(key) for key in self._redis.zrange(KEY, "-inf", time.time(), byscore=True, offset=0,
                                                                  num=limit)])  # fmt: skip

    def put_off(self, job: Job, *, until_s: float) -> bool:
        """Make a job that waits here due later, at a Unix time; False where it does not wait here any more."""
        return bool(self._redis.zadd(KEY, {_id(job): until_s}, xx=True, ch=True))

    def drop(self, ids: list[str]) -> None:
        """Forget what was sent. Sending comes first: after a crash between the two a job is sent twice, not never."""
        if ids:
            with self._redis.pipeline() as pipe:
                pipe.zrem(KEY, *ids)
                pipe.hdel(BODIES, *ids)
                pipe.execute()

    def cancel(self, job: Job) -> bool:
        """Forget a job that was added, because it is done already; False where it does not wait here any more."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(KEY, _id(job))
            pipe.hdel(BODIES, _id(job))
            return bool(pipe.execute()[0])

    def ids(self) -> list[str]:
        """Of all that wait: for predictions and write-backs the id that their message will have."""
        return [str(key) for key in self._redis.zrange(KEY, 0, -1)]

    def jobs(self) -> list[Job]:
        return [job for _, job in self._read(self.ids())]

    def count(self) -> int:
        return int(self._redis.zcard(KEY))

    def _read(self, ids: list[str]) -> list[tuple[str, Job]]:
        bodies = self._redis.hmget(BODIES, ids) if ids else []
        return [(key, load_message(str(body))) for key, body in zip(ids, bodies, strict=True) if body is not None]


def _id(job: Job, body: str = "") -> str:
    if isinstance(job, PredictJob | WriteBackJob):
        return message_id(job)
    if isinstance(job, FinetuneJob):
        return job.id
    return hashlib.sha256((body or dump_message(job)).encode()).hexdigest()[:16]


def dump_message(job: Job) -> str:
    """A job with its name, as text."""
    # written by pydantic in one go: thousands of tasks are delayed within a webhook's one second
    return f'{{"name":"{job.name}","job":{job.model_dump_json(exclude_defaults=True)}}}'


def load_message(body: str) -> Job:
    """What dump_message() made. Raises KeyError for a name that nobody knows, pydantic.ValidationError."""
    message = json.loads(body)
    return _KINDS[message["name"]].model_validate(message["job"])
