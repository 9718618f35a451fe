"""The writer's loop: takes all write-backs that wait, stores them together, and settles each one's fate.

Called by: worker.app, in the writer process. Must not import: Celery, torch.
Few large requests: with each one Label Studio 1.23.2 counts anew what all tasks of the project have. 2,000 predictions
are stored several times faster by 1,000 than by 128. Example: `Gatherer(crew, writer, intake, limit=1000).start()`
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import redis
from pydantic import ValidationError

from contract.delayed import backoff_s
from contract.errors import BadMessage, BeingStored, GroundcrewError, JobCancelled
from contract.jobs import WriteBackJob
from contract.logs import about, facts_of
from contract.rounds import Rounds
from contract.traces import span
from worker.intake import Intake, Taken
from worker.tasks import Crew, first_problem
from worker.writer import Writer

log = logging.getLogger(__name__)

BLOCK_S = 1.0  #: a blocking read, shorter than the socket's timeout
TOGETHER_S = 0.2  #: from one request of many to the next, unless it was full
AWAY_S = 1.0  #: before Redis is asked again
MOST_WRITE_TRIES = 1500  #: about a day of Label Studio being away
BEING_STORED_AGAIN_S = 3.0


class Received(NamedTuple):
    """A write-back in hand."""

    tag: str
    job: WriteBackJob
    request_id: str  #: of the HTTP request it is for; empty where there was none
    traceparent: str


class Gatherer:
    """A thread that stores what comes until stop()."""

    def __init__(self, crew: Crew, writer: Writer, intake: Intake, *, limit: int) -> None:
        self._crew, self._writer, self._intake, self._limit = crew, writer, intake, limit
        self._rounds = Rounds("gather", self._round, every_s=0.0)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """Returns when what is in hand is settled."""
        self._rounds.stop()

    def _round(self) -> float:
        """Gather once, or wait for a message; seconds until the next time."""
        began_s = time.monotonic()
        try:
            taken = self.gather()
            if not taken:
                self._intake.wait(BLOCK_S)
            # of several, more are on their way: not one request for each handful
            return began_s + TOGETHER_S - time.monotonic() if 1 < taken < self._limit else 0.0
        except redis.RedisError as error:
            log.warning("Redis does not answer (%s); trying again", type(error).__name__)
        except Exception:  # a writer that stops would leave everybody waiting
            log.exception("a round of the writer failed; trying again")
        return AWAY_S

    def gather(self) -> int:
        """Store what waits; returns how many messages that were. What an error leaves in hand comes again."""
        taken = self._intake.take(self._limit)
        try:
            by_project: defaultdict[int, list[Received]] = defaultdict(list)
            for received in self._read(taken):
                by_project[received.job.project_id].append(received)
            for project_id, some in by_project.items():
                self._store(project_id, some)
        finally:
            self._intake.forget()
        return len(taken)

    def _read(self, taken: Sequence[Taken]) -> list[Received]:
        """Those that can be understood; the others are buried."""
        found = []
        for one in taken:
            try:
                found.append(_read(one))
            except _Stray as stray:
                log.error("a message of the write queue is kept as a dead letter: %s", stray.error.message)
                self._crew.records.dead.bury_stray(stray.name, stray.content, stray.error)
                self._intake.done([one.tag])
        return found

    def _store(self, project_id: int, received: Sequence[Received]) -> None:
        with ExitStack() as spans:
            for one in received:
                spans.enter_context(span(one.job.name, facts_of(one.job), parent=one.traceparent))
            errors = self._writer.write(project_id, [one.job for one in received])
        self._crew.records.finish_all(
            [one.job for one, error in zip(received, errors, strict=True) if error is None]
        )  # fmt: skip
        for one, error in zip(received, errors, strict=True):
            asked = {"request": one.request_id} if one.request_id else {}
            with about(**facts_of(one.job), **asked):
                settle(self._crew, one.job, error)
        self._intake.done([one.tag for one in received])


def settle(crew: Crew, job: WriteBackJob, error: GroundcrewError | None) -> None:
    """What comes of a write-back that is stored, or that `error` kept from being stored."""
    if error is None:
        log.info("job %s is stored", job.id)
    elif isinstance(error, JobCancelled):
        crew.records.cancel(job.id, job.run, job.project_id, error.message)
    elif isinstance(error, BeingStored):  # by another writer, or by one that died a moment ago: no failed try of ours
        crew.delayed.add(job, after_s=BEING_STORED_AGAIN_S)
    elif not error.retry or job.attempt + 1 >= MOST_WRITE_TRIES:
        log.warning("job %s could not be stored: %s: %s", job.id, error.code, error.message)
        crew.records.dead.bury(job, error, attempts=job.attempt + 1)
        crew.records.fail(job.id, job.run, job.project_id, error)
    else:
        log.info("job %s will be stored later: %s", job.id, error.message)
        crew.delayed.add(job.model_copy(update={"attempt": job.attempt + 1}), after_s=backoff_s(job.attempt))


class _Stray(Exception):
    """A message that is no write-back: the name it goes by, what it holds, and what is wrong with it."""

    def __init__(self, name: str, content: object, why: str) -> None:
        super().__init__(why)
        self.name, self.content, self.error = name, content, BadMessage(why)


def _read(taken: Taken) -> Received:
    """Raises _Stray."""
    try:
        message = json.loads(taken.message)
        headers, properties = message["headers"], message["properties"]
        name, body = str(headers["task"]), str(message["body"])
        if properties.get("body_encoding") == "base64":  # as Celery itself sends
            body = base64.b64decode(body).decode()
        content = json.loads(body)[1]["job"]
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _Stray("", taken.message, f"cannot be read: {type(error).__name__}") from error
    if name != WriteBackJob.name:
        raise _Stray(name, content, f"no task of the writer is called {name}; a newer release may know it")
    try:
        job = WriteBackJob.model_validate(content)
    except ValidationError as error:
        raise _Stray(name, content, ": ".join(first_problem(error))) from error
    return Received(taken.tag, job, str(headers.get("request_id") or ""), str(headers.get("traceparent") or ""))
