"""Bulk predict jobs, many together: they are started in one trip to Redis, and what a batch found leaves in another.

Called by: worker.app (in place of Celery's pool of threads). Must not import: torch.
A thread a job cost 2 ms of processor: four trips to Redis, and a thread woken after each. What comes again after a
death, or is traced, takes the long way through worker.tasks, which says what becomes of a job in either case.
Example: `lane = Lane(crew, client, threads=16); register(crew, lane=lane); app.Worker(pool_cls=make_pool(lane), ...)`
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import redis
from billiard.einfo import ExceptionInfo
from celery.concurrency.thread import TaskPool
from celery.exceptions import TaskRevokedError
from celery.worker.request import Request
from pydantic import ValidationError

from contract.envelopes import enclose
from contract.errors import JobCancelled
from contract.jobs import PredictJob
from contract.logs import about, facts_of
from contract.meters import STAGE
from contract.record_batches import Found, RecordBatches
from contract.traces import is_tracing
from worker.detectors.base import Boxes
from worker.predict import Prepared
from worker.sweep import Sweep
from worker.tasks import Crew, bury_malformed, deliver, run, settle, write_back_of

log = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024  #: an image file that is decoded at once, without another thread
SWEEPERS = 2  #: threads beside those that read images


@dataclass
class Passenger:
    """A job in the lane, and what is known of it so far."""

    request: Request
    job: PredictJob
    began_s: float  #: monotonic
    prepared: Prepared | None = None
    boxes: Boxes | BaseException | None = None


class LaneRequest(Request):
    """Celery's request of a predict task, which goes through the lane of its task where it may."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Celery overrides the method in a class that it makes of this one
        self.execute_using_pool = self._enter

    def _enter(self, pool: TaskPool, **kwargs: object) -> object:
        if is_tracing() or (self.delivery_info or {}).get("redelivered"):
            return type(self).execute_using_pool(self, pool, **kwargs)
        if self.revoked():
            raise TaskRevokedError(self.id)
        return self.task.lane.add(self)


class Lane:
    """All bulk jobs that this process has in hand, save those that go the long way."""

    def __init__(self, crew: Crew, client: redis.Redis, *, threads: int) -> None:
        assert crew.predictor is not None
        self._crew, self._predictor = crew, crew.predictor
        self._records = RecordBatches(client)
        self._threads = ThreadPoolExecutor(threads + SWEEPERS, thread_name_prefix="lane")
        self._arrived: Sweep[Request] = Sweep(self._begin, self._threads.submit)
        self._found: Sweep[Passenger] = Sweep(self._conclude, self._threads.submit)
        self._changed = threading.Condition()
        self._in_hand = 0
        self._predictor.models.batcher.after_batch = self._found.go

    def add(self, request: Request) -> None:
        """From Celery's thread; Celery hears of the end through the request."""
        with self._changed:
            self._in_hand += 1
        self._arrived.add(request)

    def drain(self) -> None:
        """Returns when all that is in hand has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_hand == 0)
        self._threads.shutdown()

    # -- from a message to an image that waits for the detector ------------------------------------------------------

    def _begin(self, requests: list[Request]) -> None:
        passengers = [found for request in requests if (found := self._open(request)) is not None]
        self._crew.turns.enter(len(passengers))
        try:
            fates = self._records.start_all([one.job for one in passengers], worker=self._crew.name)
        except Exception as error:  # Redis is away: their records say what to do with them
            for one in passengers:
                self._end(one, error)
            return
        successor = cache(self._predictor.registry.successor)
        for one, fate in zip(passengers, fates, strict=True):
            if fate == "taken":
                log.info("job %s is already taken or over; skipped", one.job.id)
                self._end(one)
                continue
            with self._careful(one):
                STAGE.observe(time.time() - one.job.enqueued_at_s, stage="queue")
                if fate == "deleted":
                    raise JobCancelled(f"task {one.job.task_id} was deleted")
                if successor(one.job.project_id, one.job.model) is None:
                    self._read(one)
                else:  # another version has been promoted meanwhile
                    self._elsewhere(one, partial(self._run_alone, one))

    def _open(self, request: Request) -> Passenger | None:
        """None where the message cannot be understood."""
        failure: Exception | None = None
        try:
            request.on_accepted(os.getpid(), time.monotonic())
            return Passenger(request, PredictJob.model_validate(request.kwargs.get("job")), time.monotonic())
        except ValidationError as error:
            bury_malformed(self._crew, PredictJob.name, request.kwargs, error)
        except Exception as error:
            failure = error
        self._leave(request, failure)
        return None

    def _read(self, one: Passenger) -> None:
        """Files on this disk are read here; whatever may take longer keeps another thread busy."""
        data = self._predictor.read_near(one.job)
        if data is not None and len(data) <= SMALL_BYTES:
            self._prepare(one, data)
        else:
            self._elsewhere(one, partial(self._prepare, one, data))

    def _prepare(self, one: Passenger, data: bytes | None) -> None:
        one.prepared = prepared = self._predictor.prepare(one.job, data)
        future = self._predictor.models.submit(prepared.look, prepared.pixels) if prepared.is_one_view else None
        if future is None:
            self._elsewhere(one, partial(self._detect, one, prepared))
        else:
            future.add_done_callback(partial(self._detected, one))

    def _detect(self, one: Passenger, prepared: Prepared) -> None:
        """Tile by tile, or with a version that is loaded first."""
        one.boxes = self._predictor.detect(prepared)
        self._found.add(one)

    def _detected(self, one: Passenger, future: Future[Boxes]) -> None:
        """In the thread that detects, for each image of a batch: after_batch comes next."""
        one.boxes = future.exception() or future.result()
        self._found.put(one)

    def _run_alone(self, one: Passenger) -> None:
        run(self._crew, one.job)
        self._end(one)

    # -- from the boxes to a message for the writer --------------------------------------------------------------------

    def _conclude(self, passengers: list[Passenger]) -> None:
        leaving: list[tuple[Passenger, Found]] = []
        for one in passengers:
            with self._careful(one):
                found = self._deliver(one)
                if found is None:
                    self._end(one)
                else:
                    leaving.append((one, found))
        failure: Exception | None = None
        try:
            self._records.predicted_all([found for _, found in leaving])
        except Exception as error:
            failure = error
        for one, _ in leaving:
            self._end(one, failure)

    def _deliver(self, one: Passenger) -> Found | None:
        """None where it is delivered already."""
        assert one.prepared is not None
        if one.boxes is None or isinstance(one.boxes, BaseException):
            raise one.boxes or AssertionError
        prediction = self._predictor.conclude(one.prepared, one.boxes)
        if one.job.delivery != "write":
            deliver(self._crew, one.job, prediction)
            return None
        log.info("job %s: %d boxes", one.job.id, len(prediction.result))
        return Found(one.job, len(prediction.result), enclose(write_back_of(one.job, prediction), self._crew.shards))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _elsewhere(self, one: Passenger, work: Callable[[], None]) -> None:
        def go() -> None:
            with self._careful(one):
                work()

        self._threads.submit(go)

    @contextmanager
    def _careful(self, one: Passenger) -> Iterator[None]:
        """Log lines say what they are about; an error is the end of this job and of no other."""
        asked = one.request.request_dict.get("request_id")
        with about(**facts_of(one.job), **({"request": asked} if asked else {})):
            try:
                yield
            except Exception as error:
                self._settle(one, error)

    def _settle(self, one: Passenger, error: Exception) -> None:
        try:
            settle(self._crew, one.job, error)
        except Exception as failure:
            self._end(one, failure)
        else:
            self._end(one)

    def _end(self, one: Passenger, failure: Exception | None = None) -> None:
        one.prepared = one.boxes = None  # an error's traceback may keep its frames, and these their images, for long
        self._crew.turns.leave()
        self._leave(one.request, failure, time.monotonic() - one.began_s)

    def _leave(self, request: Request, failure: Exception | None = None, took_s: float = 0.0) -> None:
        try:
            if failure is None:
                request.on_success((0, None, took_s))
            else:
                log.error("task %s failed", request.id, exc_info=failure)
                request.on_failure(_as_info(failure), return_ok=True)
        except Exception:  # its message comes again
            log.exception("the end of task %s could not be told", request.id)
        finally:
            with self._changed:
                self._in_hand -= 1
                self._changed.notify_all()


def _as_info(failure: Exception) -> ExceptionInfo:
    return ExceptionInfo((type(failure), failure, failure.__traceback__))


def make_pool(lane: Lane) -> type[TaskPool]:
    """Celery's pool of threads for a worker whose predict tasks go through the lane: it stops when both are empty."""

    class LanePool(TaskPool):
        def on_stop(self) -> None:
            lane.drain()
            super().on_stop()

    return LanePool
