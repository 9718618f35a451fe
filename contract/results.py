"""Who gets the boxes: results someone waits for, the claim that decides who delivers, marks against writing twice.

Called by: backend.dispatch, worker.tasks, worker.writer. Must not import: Celery, Flask.
Label Studio has no unique constraint on predictions, so delivery once only is made here, one Redis command each.
Example: `results.claim(job, "api")` is True for the first caller only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import redis

from contract.jobs import Prediction, PredictJob, WriteBackJob

RESULT_TTL_S = 600  #: longer than anyone waits for one
HELD_TTL_S = 24 * 3600  #: without a token: until Label Studio asks again
MARK_TTL_S = 24 * 3600  #: a second run of the same task and version within this time looks before it writes
LOCK_TTL_S = 30  #: a writer renews its locks while it lives; those of a dead one hold others up for so long
# One script for the keys of a whole request: as commands of their own they took a tenth of the writer's time.
_LOCK = """
local taken = {}
for i, key in ipairs(KEYS) do taken[i] = redis.call('SET', key, ARGV[1], 'NX', 'EX', ARGV[2]) and 1 or 0 end
return taken
"""
_RENEW = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('EXPIRE', key, ARGV[2]) end
end
"""
_UNLOCK = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""
_SET = "for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end"
REDIS_SLICE_S = 1.0  #: blocking reads are cut into slices shorter than the socket's timeout

Claimant = Literal["api", "writer"]
Mark = Literal["none", "posting", "written"]


class Results:
    """Results and delivery marks of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lock, self._renew = client.register_script(_LOCK), client.register_script(_RENEW)
        self._unlock, self._set = client.register_script(_UNLOCK), client.register_script(_SET)

    # -- waiting for a result --------------------------------------------------------------------------------------

    def put(self, job: PredictJob, prediction: Prediction) -> None:
        """Make the result available to wait() and get(); kept for a day under `hold`."""
        ttl_s = HELD_TTL_S if job.delivery == "hold" else RESULT_TTL_S
        self._announce(job, prediction.model_dump_json(), ttl_s)

    def put_failure(self, job: PredictJob) -> None:
        """Wake whoever waits: there will be no result."""
        self._announce(job, "", RESULT_TTL_S)

    def _announce(self, job: PredictJob, body: str, ttl_s: int) -> None:
        with self._redis.pipeline() as pipe:
            if body:
                pipe.set(_result(job), body, ex=ttl_s)
            pipe.execute()
        if job.delivery != "write":
            self._ring(job)

    def _ring(self, job: PredictJob) -> None:
        with self._redis.pipeline() as pipe:
            pipe.rpush(_ready(job), "1")
            pipe.expire(_ready(job), RESULT_TTL_S)
            pipe.execute()

    def get(self, job: PredictJob) -> Prediction | None:
        body = self._redis.get(_result(job))
        return None if body is None else Prediction.model_validate_json(body)

    def get_many(self, jobs: Sequence[PredictJob]) -> list[Prediction | None]:
        if not jobs:
            return []
        found = self._redis.mget([_result(job) for job in jobs])
        return [None if body is None else Prediction.model_validate_json(body) for body in found]

    def wait(self, job: PredictJob, deadline_s: float) -> Prediction | None:
        """The result as soon as it is there; None when it failed or did not come within deadline_s seconds."""
        end = time.monotonic() + deadline_s
        while (left_s := end - time.monotonic()) > 0:
            if self._redis.blpop([_ready(job)], timeout=max(min(left_s, REDIS_SLICE_S), 0.01)) is not None:
                self._ring(job)  # someone else may wait for the same job
                break
        return self.get(job)

    # -- who delivers ----------------------------------------------------------------------------------------------

    def claim(self, job: PredictJob, who: Claimant) -> bool:
        """True for the first caller of this run: exactly one of API and writer delivers."""
        return bool(self._redis.set(f"gc:claim:{job.id}:{job.run}", who, nx=True, ex=RESULT_TTL_S))

    def claimed_by(self, job: PredictJob) -> Claimant | None:
        who = self._redis.get(f"gc:claim:{job.id}:{job.run}")
        return None if who is None else "api" if who == "api" else "writer"

    # -- writing once ----------------------------------------------------------------------------------------------

    def lock_writes(self, jobs: Sequence[WriteBackJob], owner: str) -> list[bool]:
        """For each job whether `owner` now holds the lock of its (task, version)."""
        return [bool(taken) for taken in self._lock(keys=[_lock(job) for job in jobs], args=[owner, LOCK_TTL_S])]

    def renew_writes(self, jobs: Sequence[WriteBackJob], owner: str) -> None:
        """Keep the locks that `owner` still holds for another LOCK_TTL_S."""
        self._renew(keys=[_lock(job) for job in jobs], args=[owner, LOCK_TTL_S])

    def unlock_writes(self, jobs: Sequence[WriteBackJob], owner: str) -> None:
        """Give up the locks that `owner` still holds: one that lapsed may be another writer's by now."""
        self._unlock(keys=[_lock(job) for job in jobs], args=[owner])

    def marks(self, jobs: Sequence[WriteBackJob]) -> list[tuple[Mark, bool]]:
        """For each job (this run's mark, whether any run of its task and version was written lately)."""
        if not jobs:
            return []
        runs = self._redis.mget([_mark(job) for job in jobs])
        recent = self._redis.mget([_written(job) for job in jobs])
        return [(_as_mark(run), seen is not None) for run, seen in zip(runs, recent, strict=True)]

    def redis_started_s(self) -> float:
        """Unix time since which this Redis runs; what was marked just before may be lost."""
        return time.time() - int(self._redis.info("server")["uptime_in_seconds"])

    def mark_posting(self, jobs: Sequence[WriteBackJob]) -> None:
        """Before the POST: after a crash the next try knows that it has to look first."""
        self._set_marks(jobs, "posting")

    def mark_written(self, jobs: Sequence[WriteBackJob]) -> None:
        """After the POST was confirmed."""
        self._set_marks(jobs, "written")

    def _set_marks(self, jobs: Sequence[WriteBackJob], mark: Mark) -> None:
        marks: dict[str, str] = {_mark(job): mark for job in jobs}
        if mark == "written":
            marks |= {_written(job): job.run for job in jobs}
        self._set(keys=list(marks), args=[MARK_TTL_S, *marks.values()])


def _result(job: PredictJob) -> str:
    # without a token the next /predict makes a new run, and must find what the last one left
    return f"gc:held:{job.id}" if job.delivery == "hold" else f"gc:result:{job.id}:{job.run}"


def _ready(job: PredictJob) -> str:
    return f"gc:ready:{job.id}:{job.run}"


def _lock(job: WriteBackJob) -> str:
    return f"gc:lock:{job.id}"


def _mark(job: WriteBackJob) -> str:
    return f"gc:mark:{job.id}:{job.run}"


def _written(job: WriteBackJob) -> str:
    return f"gc:written:{job.id}"


def _as_mark(value: object) -> Mark:
    return "none" if value is None else "written" if value == "written" else "posting"
