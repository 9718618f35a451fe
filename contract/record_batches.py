"""Moves of job records many at a time: the two that every bulk job goes through, each in one trip and one step.

Called by: worker.lane. Must not import: Celery, Flask.
One by one they are JobRecords.start() and .predicted(), which say what they mean. Example:
`RecordBatches(client).start_all(jobs, worker="worker-7@host")` -> ["started", "taken", "deleted"]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import redis

from contract.envelopes import Envelope
from contract.jobs import PredictJob
from contract.record_keys import OPEN_KEY, counts_key, deleted_key, latest_key, record_key
from contract.record_scripts import PREDICTED_ALL, START_ALL

Fate = Literal["started", "taken", "deleted"]
"""`taken`: another message of this run did it already, or the job is over; `deleted`: started, but its task is gone."""


class Found(NamedTuple):
    """A job whose boxes are known, and the message that takes them to Label Studio."""

    job: PredictJob
    boxes: int
    send: Envelope


class RecordBatches:
    """Many records of one Redis at once. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._start_all = client.register_script(START_ALL)
        self._predicted_all = client.register_script(PREDICTED_ALL)

    def start_all(self, jobs: Sequence[PredictJob], *, worker: str) -> list[Fate]:
        """queued -> running, for jobs that come for the first time."""
        keys, args = [OPEN_KEY], [str(time.time()), worker]
        for job in jobs:
            project = job.project_id
            keys += [record_key(job.id), counts_key(project), latest_key(project), deleted_key(project)]
            args += [job.id, job.run, str(job.task_id), job.model_dump_json(exclude_defaults=True)]
        return self._start_all(keys=keys, args=args) if jobs else []

    def predicted_all(self, found: Sequence[Found]) -> None:
        """running -> writing. The messages are sent whatever the records say: what the model has found is kept."""
        keys, args = [OPEN_KEY], [str(time.time())]
        for job, boxes, send in found:
            project = job.project_id
            keys += [record_key(job.id), counts_key(project), latest_key(project), send.queue]
            args += [job.id, job.run, str(boxes), send.message]
        if found:
            self._predicted_all(keys=keys, args=args)
