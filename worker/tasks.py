"""The tasks that Celery calls, and the ladder of every fate a job can have.

Called by: Celery, through the app made in worker.app. Must not import: torch, mmdet, Flask.
Example: `register(crew)` names groundcrew.predict, .expand, .notify, .compare, .finetune; .write_back: worker.gather.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis
from celery import Celery, Task
from pydantic import ValidationError

from contract.broker import send
from contract.delayed import Delayed, backoff_s
from contract.envelopes import enclose
from contract.errors import (
    BadMessage,
    BrokerUnavailable,
    GroundcrewError,
    JobCancelled,
    LabelStudioAway,
    LabelStudioUnreachable,
    Poison,
)
from contract.jobs import CompareJob, ExpandJob, FinetuneJob, Job, NotifyJob, Prediction, PredictJob, WriteBackJob
from contract.meters import FAILURES, RETRIES, STAGE
from contract.restamp import restamp, send_anew
from contract.results import Results
from contract.status import JobRecords
from worker.compare import Comparer
from worker.finetune import Finetuner
from worker.following import follow
from worker.notify import Postman
from worker.predict import Predictor
from worker.strays import keep_strays
from worker.turns import Turns

log = logging.getLogger(__name__)

MOST_IMAGE_TRIES = 5  #: about a minute in all
LONGEST_OUTAGE_S = 24 * 3600.0  #: of Label Studio, where images lie
OUTAGE_AGAIN_S = (8.0, 300.0)  #: a quarter of a job's age, within these
MOST_COMPARE_TRIES = 100  #: about an hour and a half
DEATHS_OF_POISON = 3  #: workers that a job may kill while it runs alone
CLAIM_CHECK_S = 30.0  #: after an API claimed a delivery, look whether Label Studio really got it
EXPAND_CHUNK = 500
BUSY_AGAIN_S = 10.0


@dataclass(frozen=True)
class Crew:
    """The parts one worker process works with; worker.app builds the real ones."""

    app: Celery
    records: JobRecords
    results: Results
    delayed: Delayed
    shards: int
    name: str  #: of this worker, as job records show it
    predictor: Predictor | None = None
    finetuner: Finetuner | None = None
    comparer: Comparer | None = None
    postman: Postman | None = None
    turns: Turns = field(default_factory=Turns)

    def send(self, *jobs: Job) -> None:
        send(self.app, jobs, shards=self.shards)


def register(crew: Crew, **predict_options: object) -> None:
    """Make the tasks known to the crew's Celery app under their stable names.

    `predict_options` are Celery's, for the predict task: worker.lane has its own way of running it.
    """

    def as_task(kind: type[Job], run: Callable[..., None], **options: object) -> None:
        def call(self: Task, *_: object, **given: object) -> None:
            try:
                job = kind.model_validate(given.get("job"))
            except ValidationError as error:
                bury_malformed(crew, kind.name, given, error)
                return
            with follow(self.request, job):
                run(crew, job, redelivered=bool((self.request.delivery_info or {}).get("redelivered")))

        # not shared: Celery would give the urgent consumer's app the bulk consumer's task, and its lane
        crew.app.task(bind=True, name=kind.name, shared=False, **options)(call)

    as_task(PredictJob, predict, **predict_options)
    as_task(ExpandJob, lambda crew, job, redelivered: expand(crew, job))
    as_task(NotifyJob, lambda crew, job, redelivered: notify(crew, job))
    as_task(CompareJob, lambda crew, job, redelivered: compare(crew, job))
    # its lease says who works on it: a message unacknowledged for hours would be delivered again and again
    as_task(FinetuneJob, lambda crew, job, redelivered: finetune(crew, job), acks_late=False)
    keep_strays(crew.app, crew.records.dead)


def bury_malformed(crew: Crew, name: str, given: dict[str, object], error: ValidationError) -> None:
    where, problem = first_problem(error)
    log.error("a %s message is kept as a dead letter: %s", name, where)
    crew.records.dead.bury_stray(name, given.get("job", given), BadMessage(f"{where}: {problem}"))


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The dotted path of the first field of a message that is wrong, and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])) or "job", first["msg"]


def predict(crew: Crew, job: PredictJob, redelivered: bool = False) -> None:
    """Find the boxes of one image and hand them to whoever delivers them."""
    deaths = crew.records.count_death(job) if redelivered else None
    if deaths is not None and deaths >= DEATHS_OF_POISON:
        _bury(crew, job, Poison())
        return
    with crew.turns.together() if deaths is None else crew.turns.alone():
        if not crew.records.start(job, redelivered=redelivered, worker=crew.name, alone=deaths is not None):
            log.info("job %s is already taken or over; skipped", job.id)
            return
        STAGE.observe(time.time() - job.enqueued_at_s, stage="queue")
        run(crew, job)


def run(crew: Crew, job: PredictJob) -> None:
    """Run a job that is started, to whatever end. Raises redis.RedisError and BrokerUnavailable."""
    assert crew.predictor is not None
    try:
        job = _as_current(crew, job)
        prediction = crew.predictor.predict(job)
    except _Superseded:
        return
    except Exception as error:
        settle(crew, job, error)
    else:
        deliver(crew, job, prediction)


def settle(crew: Crew, job: PredictJob, error: Exception) -> None:
    """What becomes of a job that ended with an error. Raises redis.RedisError and BrokerUnavailable."""
    if isinstance(error, redis.RedisError | BrokerUnavailable):  # not the job's fault: it stays open and is sent again
        raise error
    if isinstance(error, JobCancelled):
        crew.records.cancel(job.id, job.run, job.project_id, error.message)
        crew.results.put_failure(job)
    elif isinstance(error, GroundcrewError):
        _retry_or_fail(crew, job, error)
    else:
        log.error("job %s failed in an unexpected way", job.id, exc_info=error)
        _bury(crew, job, GroundcrewError(f"unexpected {type(error).__name__}: {error}"))


class _Superseded(Exception):
    """The task was asked for anew under its project's current version."""


def _as_current(crew: Crew, job: PredictJob) -> PredictJob:
    """The job to run: the same, or for someone who waits at the editor the one of the version promoted meanwhile."""
    assert crew.predictor is not None
    newer = restamp(job, crew.predictor.registry, crew.records)
    if newer is None or newer.id == job.id:
        return newer or job
    send_anew(job, newer, crew.records, crew.results, crew.send)
    log.info("job %s is superseded by %s", job.id, newer.id)
    raise _Superseded


def deliver(crew: Crew, job: PredictJob, prediction: Prediction) -> None:
    """Hand over a finished prediction by the job's kind of delivery (see contract.jobs.Delivery)."""
    boxes = len(prediction.result)
    log.info("job %s: %d boxes", job.id, boxes)
    write = write_back_of(job, prediction)
    if job.delivery == "write":
        crew.records.predicted(job, boxes, send=enclose(write, crew.shards))
        return
    crew.results.put(job, prediction)
    if job.delivery != "claim":
        crew.records.finish(job.id, job.run, job.project_id, boxes=boxes)
        return
    crew.records.predicted(job, boxes)
    # The result is stored before the claim is read, and the API claims before it reads the result: one of us sees it.
    if crew.results.claimed_by(job) == "writer":
        crew.send(write)
    else:
        crew.delayed.add(write.model_copy(update={"verify": True}), after_s=CLAIM_CHECK_S)


def write_back_of(job: PredictJob, prediction: Prediction) -> WriteBackJob:
    """The job that stores what this one has found."""
    return WriteBackJob(
        id=job.id, run=job.run, project_id=job.project_id, prediction=prediction, replaces=job.replaces,
        asked_at_s=job.enqueued_at_s,
    )  # fmt: skip


def _retry_or_fail(crew: Crew, job: PredictJob, error: GroundcrewError) -> None:
    if not error.retry or job.delivery == "answer":
        _fail(crew, job, error)
        return
    if isinstance(error, LabelStudioAway | LabelStudioUnreachable) and _age_s(job) < LONGEST_OUTAGE_S:
        _wait_for_label_studio(crew, job, error)
        return
    if job.attempt + 1 >= MOST_IMAGE_TRIES:
        _bury(crew, job, error)
        return
    again = job.model_copy(update={"attempt": job.attempt + 1})
    log.warning("job %s, try %d: %s", job.id, again.attempt, error.message)
    RETRIES.add(code=error.code)
    crew.delayed.add(again, after_s=backoff_s(job.attempt))
    crew.records.retry_later(again, error)


def _age_s(job: PredictJob) -> float:
    return time.time() - job.enqueued_at_s


def _wait_for_label_studio(crew: Crew, job: PredictJob, error: GroundcrewError) -> None:
    """An outage costs no try. The longer a job has waited, the less often it asks: many may wait."""
    log.info("job %s waits for Label Studio: %s", job.id, error.message)
    least_s, most_s = OUTAGE_AGAIN_S
    after_s = min(max(_age_s(job) / 4, least_s), most_s) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
    crew.delayed.add(job, after_s=after_s)
    crew.records.retry_later(job, error)


def _fail(crew: Crew, job: PredictJob, error: GroundcrewError) -> None:
    log.warning("job %s failed: %s: %s", job.id, error.code, error.message)
    FAILURES.add(code=error.code)
    crew.records.fail(job.id, job.run, job.project_id, error)
    crew.results.put_failure(job)


def _bury(crew: Crew, job: PredictJob, error: GroundcrewError) -> None:
    """Failed, and worth a look: kept as a dead letter, unless someone at the screen has been told already."""
    if job.delivery != "answer":
        crew.records.dead.bury(job, error, attempts=job.attempt + 1)
    _fail(crew, job, error)


def expand(crew: Crew, job: ExpandJob) -> None:
    """Record and send the predict jobs of many tasks. Running it twice changes nothing: admit() knows them."""
    jobs = job.predict_jobs()
    for start in range(0, len(jobs), EXPAND_CHUNK):
        crew.records.admit(jobs[start : start + EXPAND_CHUNK], send_to_shards=crew.shards)
    crew.delayed.cancel(job)


def compare(crew: Crew, job: CompareJob) -> None:
    """Compare annotations with predictions; while Label Studio does not answer, later."""
    assert crew.comparer is not None
    try:
        crew.comparer.compare(job)
    except GroundcrewError as error:
        if not error.retry or job.attempt + 1 >= MOST_COMPARE_TRIES:
            log.warning("annotations of project %d are not compared: %s", job.project_id, error.message)
            return
        crew.delayed.add(job.model_copy(update={"attempt": job.attempt + 1}), after_s=backoff_s(job.attempt))


def finetune(crew: Crew, job: FinetuneJob) -> None:
    """Make a new model version. While another one of the project runs, this one waits."""
    assert crew.finetuner is not None
    if crew.finetuner.run(job) == "busy":
        crew.delayed.add(job, after_s=BUSY_AGAIN_S)


def notify(crew: Crew, job: NotifyJob) -> None:
    """Tell the receiver at NOTIFY_URL; a failure waits for its next try in the delayed set."""
    assert crew.postman is not None
    crew.postman.deliver(job)
