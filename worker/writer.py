"""Stores predictions in Label Studio: gathered into one request, and never twice for one task and version.

Called by: worker.gather. Must not import: Celery, torch.
Label Studio has no unique constraint, and its bulk endpoint drops invalid items silently; both are made good here.
Measured (one Label Studio 1.23.2 on SQLite): 13 single POSTs a second, 415 to 1,270 predictions a second in bulk.
Example: `Writer(label_studio, results, records).write(project_id=1, jobs=[job]) == [None]`
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import redis

from contract.errors import BeingStored, GroundcrewError, JobCancelled, LabelStudioRefused, LabelStudioUnreachable
from contract.jobs import Prediction, WriteBackJob
from contract.meters import STAGE, WRITTEN
from contract.results import LOCK_TTL_S, Results
from contract.status import JobRecords

log = logging.getLogger(__name__)

RENEWALS = 3  #: of locks within their life
LOOK_UP = 100  #: tasks whose predictions are asked for in one request; twice as many cost Label Studio the same each
DROPPED = "Label Studio dropped the prediction: its labels do not fit the project's label config any more"


Held = Mapping[str, Sequence[int]]  #: ids of a task's predictions by version
Outcomes = dict[int, GroundcrewError | None]  #: by id() of the job; None is success


class PredictionStore(Protocol):
    """What the writer needs of Label Studio; worker.labelstudio.LabelStudio is the real one."""

    def store(self, project_id: int, predictions: Sequence[Prediction]) -> int: ...

    def versions(self, project_id: int, task_ids: Sequence[int]) -> Mapping[int, Held]: ...

    def versions_of(self, task_id: int) -> Held: ...

    def delete(self, prediction_ids: Sequence[int]) -> None: ...


class Writer:
    """Write-back jobs in, stored predictions out. Safe to share between threads and processes."""

    def __init__(self, store: PredictionStore, results: Results, records: JobRecords) -> None:
        self._store = store
        self._results = results
        self._records = records
        self._owner = secrets.token_hex(8)

    def write(self, project_id: int, jobs: Sequence[WriteBackJob]) -> list[GroundcrewError | None]:
        """Store those of one project in one request; for each job None, or what kept it from being stored.

        Raises redis.RedisError; then nobody knows, and each job may be given to write() again.
        """
        outcomes: Outcomes = {}
        locked = self._lock(jobs, outcomes)
        try:
            with self._renewing(locked):
                self._post(project_id, self._without_stored(locked, outcomes), outcomes)
        except redis.RedisError:
            raise
        except Exception as error:  # the boxes are paid for: keep them, whatever went wrong
            log.exception("%d predictions could not be stored for an unexpected reason", len(locked))
            again = LabelStudioUnreachable(f"unexpected {type(error).__name__}: {error}")
            outcomes = {id(job): again for job in locked} | outcomes
        finally:
            self._results.unlock_writes(locked, self._owner)
        found = [outcomes[id(job)] for job in jobs]
        for error in found:
            WRITTEN.add(result="stored" if error is None else error.code)
        return found

    def _lock(self, jobs: Sequence[WriteBackJob], outcomes: Outcomes) -> list[WriteBackJob]:
        mine = []
        for job, locked in zip(jobs, self._results.lock_writes(jobs, self._owner), strict=True):
            if locked:
                mine.append(job)
            else:
                outcomes[id(job)] = BeingStored()
        return mine

    @contextmanager
    def _renewing(self, jobs: list[WriteBackJob]) -> Iterator[None]:
        """A request may last longer than a lock lives, which is short so that a dead writer's locks go soon."""
        end = threading.Event()

        def renew() -> None:
            while not end.wait(LOCK_TTL_S / RENEWALS):
                with suppress(redis.RedisError):  # the next try may reach it before the lock ends
                    self._results.renew_writes(jobs, self._owner)

        thread = threading.Thread(target=renew, name="locks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _without_stored(self, jobs: list[WriteBackJob], outcomes: Outcomes) -> list[WriteBackJob]:
        """Those that still have to be written. Where a write may have happened before, Label Studio is asked.

        A Redis that was killed may have forgotten marks of its last second: jobs that are older than it are looked up.
        """
        todo: list[WriteBackJob] = []
        doubtful: list[WriteBackJob] = []
        written: list[WriteBackJob] = []
        started_s = self._results.redis_started_s() if jobs else 0.0
        task_ids = [job.prediction.task_id for job in jobs]
        deleted = self._records.deleted_among(jobs[0].project_id, task_ids) if jobs else set()
        for job, (mark, recent) in zip(jobs, self._results.marks(jobs), strict=True):
            if job.prediction.task_id in deleted:
                outcomes[id(job)] = JobCancelled(f"task {job.prediction.task_id} was deleted")
            elif mark == "written":
                written.append(job)
            elif mark == "posting" or recent or job.verify or job.asked_at_s < started_s:
                doubtful.append(job)
            else:
                todo.append(job)
        stored, missing = self._look_up(doubtful, outcomes)
        self._settle(stored, outcomes)
        self._replace(written, outcomes)
        return todo + missing

    def _look_up(self, jobs: list[WriteBackJob], outcomes: Outcomes) -> tuple[list[WriteBackJob], list[WriteBackJob]]:
        """Those whose prediction Label Studio has, and those whose it has not; of the others, the error."""
        found: dict[bool, list[WriteBackJob]] = {True: [], False: []}
        for job, held in self._ask(jobs, outcomes):
            found[job.prediction.model_version in held].append(job)
        return found[True], found[False]

    def _ask(self, jobs: list[WriteBackJob], outcomes: Outcomes) -> Iterator[tuple[WriteBackJob, Held]]:
        """Each job with what its task holds, many of them a request; of those that cannot be told, the error."""
        for start in range(0, len(jobs), LOOK_UP):
            some = jobs[start : start + LOOK_UP]
            try:
                held = self._versions(some)
            except GroundcrewError as error:
                outcomes.update({id(job): error for job in some})
                continue
            for job in some:
                task_id = job.prediction.task_id
                try:
                    yield job, held[task_id] if task_id in held else self._store.versions_of(task_id)
                except GroundcrewError as error:
                    outcomes[id(job)] = error

    def _versions(self, jobs: list[WriteBackJob]) -> Mapping[int, Held]:
        """Of each task the versions of its predictions; what is missing has to be asked for alone."""
        if len(jobs) == 1:
            return {}
        try:
            return self._store.versions(jobs[0].project_id, [job.prediction.task_id for job in jobs])
        except LabelStudioRefused:  # perhaps for the sake of one of them
            return {}

    def _post(self, project_id: int, jobs: list[WriteBackJob], outcomes: Outcomes) -> None:
        """One request; a refusal of many is narrowed down by halves, so that one bad task spoils no other."""
        if not jobs:
            return
        self._results.mark_posting(jobs)
        try:
            with STAGE.time(stage="write"):
                created = self._store.store(project_id, [job.prediction for job in jobs])
        except LabelStudioRefused as error:
            if len(jobs) == 1:
                outcomes[id(jobs[0])] = error
                return
            half = len(jobs) // 2
            self._post(project_id, jobs[:half], outcomes)
            self._post(project_id, jobs[half:], outcomes)
        except GroundcrewError as error:
            outcomes.update({id(job): error for job in jobs})
        else:
            self._confirm(jobs, created, outcomes)

    def _confirm(self, jobs: list[WriteBackJob], created: int, outcomes: Outcomes) -> None:
        stored = jobs
        if created != len(jobs):
            stored, dropped = self._look_up(jobs, outcomes)
            outcomes.update({id(job): LabelStudioRefused(DROPPED) for job in dropped})
        self._settle(stored, outcomes)

    def _settle(self, stored: list[WriteBackJob], outcomes: Outcomes) -> None:
        self._results.mark_written(stored)
        self._replace(stored, outcomes)

    def _replace(self, stored: list[WriteBackJob], outcomes: Outcomes) -> None:
        """What these replace may go, now that they are stored. An error makes a job come back for just this.

        Label Studio deletes many at once by task only, with whatever else a task holds, or by version in all tasks.
        """
        outcomes.update({id(job): None for job in stored if not job.replaces})
        for job, held in self._ask([job for job in stored if job.replaces], outcomes):
            outcomes[id(job)] = self._delete(held.get(job.replaces, ()))

    def _delete(self, prediction_ids: Sequence[int]) -> GroundcrewError | None:
        try:
            self._store.delete(prediction_ids)
        except GroundcrewError as error:
            return error
        return None
