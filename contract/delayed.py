"""Work that waits for its time: a sorted set in Redis, sent when due. Never Celery's countdown, eta or retry.

Called by: worker.tasks (adds), worker.reconcile (sends what is due). Must not import: Flask, torch.
On Redis a countdown longer than the visibility timeout runs again and again (one of 17 s ran 4 times at 5 s).
Example: `delayed.add(job, after_s=backoff_s(job.attempt))`
"""

from __future__ import annotations

import json
import random
import time

import redis

from contract.jobs import ExpandJob, FinetuneJob, Job, PredictJob, WriteBackJob

KEY = "gc:delayed"  #: sorted set of messages by the Unix time at which they are due
LONGEST_BACKOFF_S = 60.0
_KINDS: dict[str, type[Job]] = {kind.name: kind for kind in (PredictJob, WriteBackJob, ExpandJob, FinetuneJob)}


def backoff_s(attempt: int) -> float:
    """1, 2, 4 ... 60 seconds, each times 0.5 to 1.5, so that many failures do not come back at the same moment."""
    return min(2.0**attempt, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


class Delayed:
    """The waiting room of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, job: Job, *, after_s: float) -> None:
        self._redis.zadd(KEY, {_token(job): time.time() + after_s})

    def due(self, limit: int = 500) -> list[tuple[str, Job]]:
        """(token, job) of what is due; give the token to drop() once the job is sent."""
        bodies = [str(body) for body in self._redis.zrange(KEY, "-inf", time.time(), byscore=True, offset=0, num=limit)]
        return [(body, _read(body)) for body in bodies]

    def put_off(self, job: Job, *, until_s: float) -> bool:
        """Make a job that waits here due later, at a Unix time; False where it does not wait here any more."""
        return bool(self._redis.zadd(KEY, {_token(job): until_s}, xx=True, ch=True))

    def drop(self, tokens: list[str]) -> None:
        """Forget what was sent. Sending comes first: after a crash between the two a job is sent twice, not never."""
        if tokens:
            self._redis.zrem(KEY, *tokens)

    def cancel(self, job: Job) -> bool:
        """Forget a job that was added, because it is done already; False where it does not wait here any more."""
        return bool(self._redis.zrem(KEY, _token(job)))

    def jobs(self) -> list[Job]:
        return [_read(str(body)) for body in self._redis.zrange(KEY, 0, -1)]

    def count(self) -> int:
        return int(self._redis.zcard(KEY))


def _token(job: Job) -> str:
    return json.dumps({"name": job.name, "job": job.to_json()}, sort_keys=True)


def _read(body: str) -> Job:
    message = json.loads(body)
    return _KINDS[message["name"]].model_validate(message["job"])
