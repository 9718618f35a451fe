"""Job records in Redis: which state each job is in, why it failed, and how many of each a project has.

Called by: backend.dispatch, backend.routes, worker.tasks, worker.reconcile, groundcrew. Must not import: Celery, Flask.
A record outlives its message, so "is it running, stuck or dead?" has an answer, and a lost message is sent again.
Example: `records.admit(jobs)` -> the jobs that were not under way already; send exactly those.

    queued --start--> running --predicted--> writing --finish--> done
      ^                 |  |                    |
      +----- retry -----+  +------ fail --------+----> failed          any of them --cancel--> cancelled
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence

import redis

from contract.dead_letters import DeadLetters
from contract.envelopes import NOTHING, Envelope, enclose
from contract.errors import GroundcrewError, UnknownJob
from contract.jobs import PredictJob, WriteBackJob
from contract.record_keys import OPEN_KEY, counts_key, deleted_key, failed_key, latest_key, pace_key, record_key
from contract.record_scripts import ADMIT, COUNT_DEATH, MOVE
from contract.redact import redact

OPEN = ("queued", "running", "writing")
STATES = (*OPEN, "done", "failed", "cancelled")
DONE_TTL_S = 24 * 3600  #: how long a finished record can be looked up
FAILED_TTL_S = 7 * 24 * 3600
PACE_MINUTES = 5  #: what "jobs a second" looks back on
DELETED_TTL_S = 24 * 3600  #: how long a deleted task is remembered, for jobs of it still waiting


class JobRecords:
    """All job records of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, *, failed_memory_s: int) -> None:
        self._redis = client
        self._failed_memory_s = failed_memory_s
        self.dead = DeadLetters(client)
        self._admit = client.register_script(ADMIT)
        self._move_script = client.register_script(MOVE)
        self._count_death = client.register_script(COUNT_DEATH)

    # -- label configs ---------------------------------------------------------------------------------------------

    def save_config(self, xml: str, prompt_map: Mapping[str, str]) -> str:
        """Store a label config once; jobs name it by the returned id instead of carrying it."""
        body = json.dumps({"xml": xml, "prompt_map": dict(prompt_map)}, sort_keys=True, ensure_ascii=False)
        config_id = hashlib.sha256(body.encode()).hexdigest()[:16]
        self._redis.set(f"gc:config:{config_id}", body)
        return config_id

    def load_config(self, config_id: str) -> tuple[str, dict[str, str]]:
        """(XML, prompt map) as saved. Raises UnknownJob when Redis has lost it."""
        body = self._redis.get(f"gc:config:{config_id}")
        if body is None:
            raise UnknownJob(f"label config {config_id} is not stored; ask for the prediction again")
        config = json.loads(body)
        return config["xml"], config["prompt_map"]

    # -- life of a job ---------------------------------------------------------------------------------------------

    def admit(self, jobs: Sequence[PredictJob], *, send_to_shards: int = 0) -> list[PredictJob]:
        """Record the jobs as queued and return those that are new: not under way, not failed a moment ago.

        With a number of shards their messages are sent in the same step, else the caller sends what is returned.
        """
        now = time.time()
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                queue, message = enclose(job, send_to_shards) if send_to_shards else ("", "")
                project = job.project_id
                keys = [record_key(job.id), counts_key(project), OPEN_KEY, latest_key(project), failed_key(project),
                        queue]  # fmt: skip
                args: list[str | float] = [job.id, now, self._failed_memory_s, job.run, _body(job), message]
                self._admit(keys=keys, args=args, client=pipe)
            admitted = pipe.execute()
        return [job for job, new in zip(jobs, admitted, strict=True) if new]

    def start(self, job: PredictJob, *, redelivered: bool, worker: str, alone: bool = False) -> bool:
        """queued -> running. False when another message of this run already did it, or the job is over."""
        allowed = ("none", "queued", "running") if redelivered else ("none", "queued")
        return self._move(job, "running", allowed, {"worker": worker, "job": _body(job), "alone": str(int(alone))})

    def count_death(self, job: PredictJob) -> int | None:
        """For a job that was delivered again: how many workers have died while it ran alone; None if none died of it.

        A death beside other jobs counts as 0, but is a reason to run alone.
        """
        alone = int(str(self._count_death(keys=[record_key(job.id)], args=[job.run])))
        return None if alone < 0 else alone

    def retry_later(self, job: PredictJob, error: GroundcrewError) -> bool:
        """running -> queued again, with the reason of this try."""
        fields = {"code": error.code, "reason": redact(error.message), "job": _body(job)}
        return self._move(job, "queued", ("running",), fields)

    def requeue(self, job: PredictJob) -> bool:
        """running or writing -> queued, for a job whose message was lost."""
        return self._move(job, "queued", OPEN, {})

    def predicted(self, job: PredictJob, boxes: int, send: Envelope = NOTHING) -> bool:
        """running -> writing: the boxes are known and on their way to Label Studio, in `send` if it is given."""
        return self._move(job, "writing", ("running",), {"boxes": str(boxes)}, send)

    def finish(self, job_id: str, run: str, project_id: int, *, boxes: int) -> bool:
        """-> done: Label Studio, or whoever waited, has the boxes."""
        return self._move_id(job_id, run, project_id, "done", OPEN, {"boxes": str(boxes)})

    def finish_all(self, jobs: Sequence[WriteBackJob]) -> None:
        """finish() of many, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                boxes = {"boxes": str(len(job.prediction.result))}
                self._move_id(job.id, job.run, job.project_id, "done", OPEN, boxes, client=pipe)
            pipe.execute()

    def fail(self, job_id: str, run: str, project_id: int, error: GroundcrewError) -> bool:
        """-> failed, with code and reason; asked again within failed_memory_s it is answered [] at once."""
        return self._move_id(job_id, run, project_id, "failed", (*OPEN, "none"),
                             {"code": error.code, "reason": redact(error.message)})  # fmt: skip

    def cancel(self, job_id: str, run: str, project_id: int, reason: str) -> bool:
        return self._move_id(job_id, run, project_id, "cancelled", OPEN, {"code": "cancelled", "reason": reason})

    def cancel_waiting(self, job: PredictJob, reason: str) -> bool:
        """queued -> cancelled. False where a worker has it, or it is over."""
        return self._move(job, "cancelled", ("queued",), {"code": "cancelled", "reason": reason})

    def _move(self, job: PredictJob, state: str, allowed: Sequence[str], fields: Mapping[str, str],
              send: Envelope = NOTHING) -> bool:  # fmt: skip
        return self._move_id(job.id, job.run, job.project_id, state, allowed, fields, send)

    def _move_id(self, job_id: str, run: str, project_id: int, state: str, allowed: Sequence[str],
                 fields: Mapping[str, str], send: Envelope = NOTHING,
                 client: redis.client.Pipeline | None = None) -> bool:  # fmt: skip
        ttl_s = 0 if state in OPEN else FAILED_TTL_S if state == "failed" else DONE_TTL_S
        now = time.time()
        pairs = [text for pair in {"project": str(project_id), **fields}.items() for text in pair]
        before = self._move_script(
            keys=[record_key(job_id), counts_key(project_id), OPEN_KEY, failed_key(project_id), pace_key(now),
                  latest_key(project_id), send.queue],
            args=[job_id, run, now, state, f" {' '.join(allowed)} ", ttl_s, send.message, *pairs],
            client=client,
        )
        return str(before) in allowed

    # -- deleted tasks ---------------------------------------------------------------------------------------------

    def mark_deleted(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Jobs of these tasks end as cancelled when a worker or the writer meets them."""
        key = deleted_key(project_id)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(key, *task_ids)
            pipe.expire(key, DELETED_TTL_S)
            pipe.execute()

    def is_deleted(self, project_id: int, task_id: int) -> bool:
        return bool(self._redis.sismember(deleted_key(project_id), str(task_id)))

    def deleted_among(self, project_id: int, task_ids: Sequence[int]) -> set[int]:
        """Which of these tasks were deleted lately."""
        if not task_ids:
            return set()
        found = self._redis.smismember(deleted_key(project_id), [str(task_id) for task_id in task_ids])
        return {task_id for task_id, deleted in zip(task_ids, found, strict=True) if deleted}

    # -- looking -------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> dict[str, object]:
        """The record as JSON types: id, state, project_id, task_id, model_version, updated_s, boxes, code, reason.

        Raises UnknownJob.
        """
        found = self._redis.hgetall(record_key(job_id))
        if not found:
            raise UnknownJob(f"no job {job_id} is known: it never existed, or its record has expired")
        return _readable(job_id, {str(k): str(v) for k, v in found.items()})

    def stored_job(self, job_id: str) -> PredictJob:
        """The message of a job, to send it again. Raises UnknownJob."""
        body = self._redis.hget(record_key(job_id), "job")
        if body is None:
            raise UnknownJob(f"no job {job_id} is known: it never existed, or its record has expired")
        return PredictJob.model_validate_json(body)

    def counts(self, project_id: int) -> dict[str, int]:
        """Jobs by state: queued, running, writing now; done, failed, cancelled since the project was first seen."""
        found = {str(k): int(v) for k, v in self._redis.hgetall(counts_key(project_id)).items()}
        return {state: found.get(state, 0) for state in STATES}

    def recent_failures(self, project_id: int, limit: int = 50, *, first: int = 0) -> list[dict[str, object]]:
        """The latest failed jobs, newest first, each as get() gives it."""
        ids = self._redis.zrevrange(failed_key(project_id), first, first + limit - 1)
        return self._get_many([str(job_id) for job_id in ids])

    def latest_failures(self, project_ids: Sequence[int], limit: int) -> list[dict[str, object]]:
        """The latest failed jobs of several projects together, newest first, in two round trips."""
        with self._redis.pipeline(transaction=False) as pipe:
            for project_id in project_ids:
                pipe.zrevrange(failed_key(project_id), 0, limit - 1, withscores=True)
            found = [pair for pairs in pipe.execute() for pair in pairs]
        newest = sorted(found, key=lambda pair: -pair[1])[:limit]
        return self._get_many([str(job_id) for job_id, _ in newest])

    def open_runs(self, *, untouched_for_s: float = 0, limit: int = 1_000_000) -> list[str]:
        """"<job id>.<run>" of jobs that are queued, running or writing, oldest change first."""
        latest = time.time() - untouched_for_s
        return [str(i) for i in self._redis.zrange(OPEN_KEY, "-inf", latest, byscore=True, offset=0, num=limit)]

    def place(self, job_id: str, run: str) -> int | None:
        """How many open jobs, of all projects, have been unchanged for longer; None where it is not open."""
        rank = self._redis.zrank(OPEN_KEY, f"{job_id}.{run}")
        return None if rank is None else int(str(rank))

    def pace(self, now_s: float | None = None) -> dict[int, float]:
        """Jobs done a second, by project, over the last PACE_MINUTES and the minute that runs."""
        now = time.time() if now_s is None else now_s
        with self._redis.pipeline(transaction=False) as pipe:
            for minute in range(PACE_MINUTES + 1):
                pipe.hgetall(pace_key(now - 60 * minute))
            found = pipe.execute()
        done: dict[int, int] = {}
        for row in found:
            for project, count in row.items():
                done[int(project)] = done.get(int(project), 0) + int(count)
        busy_s = 60 * max((minute for minute, row in enumerate(found) if row), default=0) + now % 60
        return {project: count / max(busy_s, 1.0) for project, count in done.items()}

    def open_count(self) -> int:
        return int(self._redis.zcard(OPEN_KEY))

    def latest(self, project_id: int, *, first: int = 0, limit: int = 50) -> list[dict[str, object]]:
        """The project's jobs, the last changed first; the latest 10,000 are known. Each as get() gives it."""
        ids = self._redis.zrevrange(latest_key(project_id), first, first + limit - 1)
        return self._get_many([str(job_id) for job_id in ids])

    def latest_count(self, project_id: int) -> int:
        """How many latest() can list; a few of them may have expired."""
        return int(self._redis.zcard(latest_key(project_id)))

    def counts_many(self, project_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        """counts() of each project, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for project_id in project_ids:
                pipe.hgetall(counts_key(project_id))
            rows = pipe.execute()
        return {one: {state: int(row.get(state, 0)) for state in STATES}
                for one, row in zip(project_ids, rows, strict=True)}  # fmt: skip

    def _get_many(self, job_ids: Sequence[str]) -> list[dict[str, object]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(record_key(job_id))
            found = pipe.execute()
        rows = [{str(k): str(v) for k, v in row.items()} for row in found]
        return [_readable(job_id, row) for job_id, row in zip(job_ids, rows, strict=True) if row]


def _body(job: PredictJob) -> str:
    return job.model_dump_json(exclude_defaults=True)


def _readable(job_id: str, row: Mapping[str, str]) -> dict[str, object]:
    job = json.loads(row.get("job", "{}"))
    return {
        "id": job_id,
        "state": row["state"],
        "project_id": job.get("project_id"),
        "task_id": job.get("task_id"),
        "model_version": job.get("model_version"),
        "attempt": job.get("attempt", 0),
        "updated_s": float(row["updated_s"]),
        **({"boxes": int(row["boxes"])} if "boxes" in row else {}),
        **{name: row[name] for name in ("code", "reason", "worker") if name in row},
    }
