"""Records of fine-tune jobs in Redis: who asked, how far it is, what came of it. One waits and one runs a project.

Called by: backend.training, backend.routes, worker.finetune, worker.reconcile, groundcrew. Must not import: Celery.
Every change of state is one script, so two clicks, two trainers or a click and a cancel never both win.
Example: `FinetuneRecords(client).request(new_finetune(3, "cli"))` -> ("ft-3-5c1d09ab", True)

    queued --start--> running --finish--> done        queued --cancel--> cancelled at once
                         +------fail----> failed      running --cancel--> a flag; the trainer sees it and stops
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import redis
from pydantic import BaseModel, ConfigDict

from contract.errors import GroundcrewError, UnknownJob
from contract.jobs import FinetuneJob, Requester
from contract.redact import redact

__all__ = ["FinetuneJob", "FinetuneRecord", "FinetuneRecords", "Start", "is_finetune", "new_finetune"]

KEPT_S = 90 * 24 * 3600  #: how long a finished record can be looked up
LISTED = 50  #: latest jobs of a project that are listed
OPEN_KEY = "gc:ft:open"  #: sorted set of queued and running ids, by the Unix time of their last change

Start = Literal["started", "busy", "over"]
"""`busy`: another one of the project runs, try later. `over`: done, failed, cancelled or unknown; drop the message."""

# KEYS: record, the project's waiting slot, its list, open set. ARGV: id, now, job. Returns the id that waits.
_REQUEST = """
local waiting = redis.call('GET', KEYS[2])
if waiting then return waiting end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'queued', 'updated_s', ARGV[2], 'job', ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return ARGV[1]
"""

# KEYS: record, waiting slot, running slot, annotations seen, open set. ARGV: id, now, worker.
# A running job starts again when its trainer died: the caller holds the job's lease, so it is the only one.
_START = """
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 'over' end
local running = redis.call('GET', KEYS[3])
if running and running ~= ARGV[1] then return 'busy' end
if state == 'queued' then redis.call('DEL', KEYS[4]) end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'running', 'updated_s', ARGV[2], 'worker', ARGV[3])
redis.call('ZADD', KEYS[5], ARGV[2], ARGV[1])
return 'started'
"""

# KEYS: record, open set. ARGV: id, now, then names and values. Returns 1 if the job still runs.
_PROGRESS = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'updated_s', ARGV[2], unpack(ARGV, 3))
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
"""

# KEYS: record, waiting slot, running slot, open set. ARGV: id, now, new state, ttl, allowed states, names and values.
# Returns 1 if the job was in an allowed state and is over now.
_END = """
local state = redis.call('HGET', KEYS[1], 'state') or 'none'
if not string.find(ARGV[5], state, 1, true) then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'updated_s', ARGV[2], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[4])
for slot = 2, 3 do
  if redis.call('GET', KEYS[slot]) == ARGV[1] then redis.call('DEL', KEYS[slot]) end
end
redis.call('ZREM', KEYS[4], ARGV[1])
return 1
"""

# KEYS: record. Returns 1 if the job runs, and was told to stop.
_TELL_TO_STOP = """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'cancel_requested', '1')
return 1
"""


class FinetuneRecord(BaseModel):
    """One fine-tune, as /jobs/<id> shows it. What is not known yet is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    project_id: int
    base: str  #: empty until it starts, unless one was named
    requested_by: Requester
    requested_at_s: float  #: Unix time
    updated_s: float  #: Unix time
    worker: str | None = None
    cancel_requested: bool | None = None
    stage: str | None = None  #: export, waiting for a GPU, cut into tiles, train, evaluate, publish, promote
    stage_done: int | None = None  #: images that the stage is through with, of stage_total, where it counts them
    stage_total: int | None = None
    gpus: str | None = None  #: UUIDs of those that it has leased, or had, with commas between
    images: int | None = None
    warnings: str | None = None  #: about the data: tasks that were left out, labels without boxes
    epoch: int | None = None
    epochs: int | None = None
    iteration: int | None = None
    iterations: int | None = None
    loss: float | None = None
    eta_s: float | None = None
    map: float | None = None  #: on the val split, so far
    map_base: float | None = None
    weighted_map: float | None = None  #: each label counted by its annotated boxes, which the decision rests on
    weighted_map_base: float | None = None
    version: str | None = None  #: what was published
    decision: Literal["promoted", "refused"] | None = None
    code: str | None = None
    reason: str | None = None


Value = str | int | float
_Text = TypeVar("_Text", str, bytes | str)  #: what redis-py's types say of replies that are always text here
_PROGRESS_FIELDS = {"base", "stage", "stage_done", "stage_total", "images", "epoch", "epochs", "iteration",
                    "iterations", "loss", "eta_s", "map", "map_base",
                    "weighted_map", "weighted_map_base", "warnings", "gpus"}  # fmt: skip


class FinetuneRecords:
    """All fine-tunes of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._request = client.register_script(_REQUEST)
        self._start = client.register_script(_START)
        self._progress = client.register_script(_PROGRESS)
        self._end_script = client.register_script(_END)
        self._tell_to_stop = client.register_script(_TELL_TO_STOP)

    # -- life of a job ---------------------------------------------------------------------------------------------

    def request(self, job: FinetuneJob) -> tuple[str, bool]:
        """(id, True) and the job waits: send it. (id, False): that one waits already, and will see the same data."""
        keys = [_record(job.id), _waiting(job.project_id), _listed(job.project_id), OPEN_KEY]
        waiting = str(self._request(keys=keys, args=[job.id, time.time(), job.model_dump_json()]))
        return waiting, waiting == job.id

    def start(self, job: FinetuneJob, worker: str) -> Start:
        """queued -> running, or running again after a death; hold the lease of job.id first.

        Annotations seen are counted from 0 again: this job will see them.
        """
        keys = [_record(job.id), _waiting(job.project_id), _running(job.project_id), _seen(job.project_id), OPEN_KEY]
        answer = str(self._start(keys=keys, args=[job.id, time.time(), worker]))
        return "started" if answer == "started" else "busy" if answer == "busy" else "over"

    def progress(self, job_id: str, **fields: Value) -> bool:
        """Store what is known so far: base, stage, images, epoch, iteration, loss, eta_s, map ... of FinetuneRecord.

        An empty text says that it is not known any more. Raises ValueError for another field.
        False where the job does not run any more: stop.
        """
        unknown = fields.keys() - _PROGRESS_FIELDS
        if unknown:
            raise ValueError(f"no field of a fine-tune's record: {', '.join(sorted(unknown))}")
        return bool(self._progress(keys=[_record(job_id), OPEN_KEY], args=[job_id, time.time(), *_flat(fields)]))

    def finish(self, job_id: str, *, version: str, decision: Literal["promoted", "refused"], reason: str) -> bool:
        """-> done: the version is published, whether or not it became current. False where it was over before."""
        return self._end(job_id, "done", {"version": version, "decision": decision, "reason": reason})

    def fail(self, job_id: str, error: GroundcrewError) -> bool:
        """-> failed, with code and reason. False where it was over before."""
        return self._end(job_id, "failed", {"code": error.code, "reason": redact(error.message)})

    def cancelled(self, job_id: str, reason: str) -> bool:
        """-> cancelled: by the trainer, once it has stopped. False where it was over before."""
        return self._end(job_id, "cancelled", {"code": "cancelled", "reason": reason})

    def cancel_request(self, job_id: str) -> None:
        """A waiting job is cancelled at once, a running one told to stop, one that is over left alone.

        Raises UnknownJob.
        """
        fields = {"code": "cancelled", "reason": "cancelled before it started"}
        if not self._end(job_id, "cancelled", fields, allowed="queued"):
            self._tell_to_stop(keys=[_record(job_id)])

    def is_cancelled(self, job_id: str) -> bool:
        """Whether someone asked a running job to stop."""
        return self._redis.hget(_record(job_id), "cancel_requested") is not None

    def _end(self, job_id: str, state: str, fields: Mapping[str, Value], allowed: str = "queued running") -> bool:
        project_id = self.stored_job(job_id).project_id
        keys = [_record(job_id), _waiting(project_id), _running(project_id), OPEN_KEY]
        return bool(self._end_script(keys=keys, args=[job_id, time.time(), state, KEPT_S, allowed, *_flat(fields)]))

    # -- looking ---------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> dict[str, object]:
        """The fields of FinetuneRecord that are known. Raises UnknownJob."""
        row = self._redis.hgetall(_record(job_id))
        if not row:
            raise _unknown(job_id)
        return _readable(row)

    def stored_job(self, job_id: str) -> FinetuneJob:
        """The message, to send it again. Raises UnknownJob."""
        body = self._redis.hget(_record(job_id), "job")
        if body is None:
            raise _unknown(job_id)
        return FinetuneJob.model_validate_json(body)

    def waiting(self, project_id: int) -> str | None:
        return _as_text(self._redis.get(_waiting(project_id)))

    def running(self, project_id: int) -> str | None:
        return _as_text(self._redis.get(_running(project_id)))

    def latest(self, project_id: int) -> list[dict[str, object]]:
        """The project's latest fine-tunes, newest first."""
        ids = [str(job_id) for job_id in self._redis.zrevrange(_listed(project_id), 0, LISTED - 1)]
        return self._get_many(ids)

    def open_jobs(self, *, untouched_for_s: float | None = None) -> list[dict[str, object]]:
        """Records that are queued or running, oldest change first: for the reconciler."""
        latest_s = "inf" if untouched_for_s is None else time.time() - untouched_for_s
        ids = self._redis.zrange(OPEN_KEY, "-inf", latest_s, byscore=True)
        return self._get_many([str(job_id) for job_id in ids])

    def _get_many(self, job_ids: Sequence[str]) -> list[dict[str, object]]:
        """In one round trip, without those that have expired."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(_record(job_id))
            return [_readable(row) for row in pipe.execute() if row]

    # -- annotations, for FINETUNE_AFTER ---------------------------------------------------------------------------

    def annotations_seen(self, project_id: int, count: int = 0) -> int:
        """Add `count` new or changed annotations; returns how many there are since the last fine-tune started."""
        return int(self._redis.incrby(_seen(project_id), count))


def new_finetune(project_id: int, requested_by: Requester, *, base: str = "",
                 options: Mapping[str, str | int | float | bool] | None = None) -> FinetuneJob:  # fmt: skip
    """A job with an id of its own."""
    job_id = f"ft-{project_id}-{secrets.token_hex(4)}"
    return FinetuneJob(
        id=job_id, project_id=project_id, base=base, requested_by=requested_by, options=dict(options or {})
    )


def is_finetune(job_id: str) -> bool:
    """Tells ids of fine-tunes from those of predict jobs."""
    return job_id.startswith("ft-")


def _readable(row: Mapping[_Text, _Text]) -> dict[str, object]:
    fields = {str(name): str(value) for name, value in row.items() if value != ""}
    job = FinetuneJob.model_validate_json(fields["job"])
    return FinetuneRecord.model_validate(job.model_dump() | fields).model_dump(exclude_none=True)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"no fine-tune {job_id} is known: it never existed, or its record has expired")


def _flat(fields: Mapping[str, Value]) -> list[Value]:
    return [item for pair in fields.items() for item in pair]


def _as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _record(job_id: str) -> str:
    return f"gc:ft:job:{job_id}"


def _waiting(project_id: int) -> str:
    return f"gc:ft:waiting:{project_id}"


def _running(project_id: int) -> str:
    return f"gc:ft:running:{project_id}"


def _listed(project_id: int) -> str:
    return f"gc:ft:of:{project_id}"


def _seen(project_id: int) -> str:
    return f"gc:ft:seen:{project_id}"
