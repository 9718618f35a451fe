"""One worker process: builds the real parts, consumes its queues, leaves cleanly on SIGTERM and loudly when stuck.

Called by: `python -m worker predict|write|train`, groundcrew.up. Must not import: backend, groundcrew.
Thread pools only: never fork after CUDA, and a `solo` pool cannot answer a ping while it works.
Example: `run_predict(read_settings())`
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import redis
from celery import Celery, bootsteps
from celery.concurrency.thread import TaskPool
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from celery.worker import WorkController

from contract.agreement_records import AgreementRecords
from contract.broker import connect_redis, make_celery
from contract.delayed import Delayed
from contract.finetune import FinetuneRecords
from contract.heartbeats import Heartbeat
from contract.jobs import EXPAND_QUEUE, FINETUNE_QUEUE, INTERACTIVE_QUEUE, WRITE_QUEUE, bulk_queues
from contract.meters import IMAGES, TALLY
from contract.registry import ModelVersion, Registry
from contract.results import Results
from contract.settings import Settings
from contract.status import JobRecords
from worker.addresses import Fetcher
from worker.compare import Comparer
from worker.deafness import Ears
from worker.detectors.base import Detector
from worker.finetune import Finetuner
from worker.gather import Gatherer
from worker.gpu_lease import lease_gpu
from worker.holdings import delivery_tags
from worker.idle import leave_when_idle
from worker.intake import Intake
from worker.labelstudio import LabelStudio
from worker.lane import Lane, LaneRequest, make_pool
from worker.models import Models, load_mmgdino
from worker.notices import Notices
from worker.notify import Postman
from worker.pace import Pace
from worker.predict import Predictor
from worker.reconcile import Reconciler
from worker.tasks import Crew, register
from worker.vitals import vitals
from worker.writer import Writer

log = logging.getLogger("groundcrew.worker")

STUCK_EXIT_CODE = 75  #: EX_TEMPFAIL: start me again
WATCH_EVERY_S = 1.0
URGENT_GRACE_S = 20.0
EXPAND_THREADS = 16  #: of a writer, beside the one that stores: expanding, comparing, outgoing webhooks
TRAINER_NICENESS = 10  #: predictions beside a training keep their pace


# Celery warns root users because pickled messages run code; ours are JSON only (contract.broker).
warnings.filterwarnings("ignore", category=SecurityWarning)
# With a receiver here Celery leaves logging as worker/__main__.py set it up.
setup_logging.connect(lambda **_: None, weak=False)


def run_predict(settings: Settings, load: Callable[[ModelVersion], Detector] | None = None) -> None:
    """A worker that holds a model: bulk jobs in the main consumer, urgent ones in a second, both feed one batcher.

    `load` makes the detector of a version; without it, it is mmdet's GroundingDINO on DEVICE.
    """
    client = connect_redis(settings)
    gpu = lease_gpu(client, settings, lost=_leave)  # before anything imports torch
    if gpu is not None:
        atexit.register(gpu.release)
    registry = Registry(settings)
    models = Models(registry, load or load_mmgdino(settings), settings)
    models.warm_up()
    log.info("model %s is ready", registry.base.ref)
    _watch(models, settings)
    app, name = make_celery(settings), _name("worker")
    records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
    label_studio = LabelStudio(settings)
    label_studio.prepare()
    fetcher = Fetcher(settings, label_studio.authorization)
    predictor = Predictor(records, fetcher, models, registry, settings.image_limit_px)
    crew = _crew(app, client, records, settings, name, predictor=predictor)
    lane = Lane(crew, client, threads=settings.worker_threads)
    register(crew, Request=LaneRequest, lane=lane)
    urgent = _start_urgent_consumer(crew, settings)
    try:
        facts = {"role": "predict", "device": settings.device, "model": registry.base.ref}
        _consume(app, client, bulk_queues(settings.queue_shards), settings.worker_threads, name, facts,
                 settings.alive_file, vitals=lambda: vitals(models, gpu), pool=make_pool(lane))  # fmt: skip
    finally:
        # SIGTERM stops every consumer of the process (celery.worker.state); this one finishes its job in its own thread
        urgent.join(URGENT_GRACE_S)


def run_write(settings: Settings) -> None:
    """The writer: stores predictions in bulk, expands webhooks into jobs, sends what is delayed or lost."""
    client, app, name = connect_redis(settings), make_celery(settings), _name("writer")
    records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
    label_studio = LabelStudio(settings)
    label_studio.prepare()
    comparer = Comparer(label_studio, AgreementRecords(client))
    postman = Postman(settings, Delayed(client))
    crew = replace(_crew(app, client, records, settings, name), comparer=comparer, postman=postman)
    register(crew)
    intake = Intake(connect_redis(settings), WRITE_QUEUE)
    writer = Writer(label_studio, Results(client), records)
    gatherer = Gatherer(crew, writer, intake, limit=settings.writer_batch_size)
    reconciler = Reconciler(crew, client)
    reconciler.start()
    notices = Notices(client, Registry(settings), crew.send, after_jobs=settings.notify_after_jobs)
    if settings.notify_url:
        notices.start()
    try:
        facts = {"role": "write", "label_studio": settings.label_studio_url}
        gatherer.start()
        _consume(app, client, [EXPAND_QUEUE], EXPAND_THREADS, name, facts, settings.alive_file,
                 holds=lambda: [*delivery_tags(), *intake.in_hand()], leaving=gatherer.stop)  # fmt: skip
    finally:
        notices.stop()
        reconciler.stop()


def run_train(settings: Settings, *, until_idle: bool = False) -> None:
    """The trainer: one fine-tune at a time, behind everything else that this machine has to do.

    `until_idle` makes it end when there has been no fine-tune for a while, as an autoscaler's job has to.
    """
    os.nice(TRAINER_NICENESS)
    client, app, name = connect_redis(settings), make_celery(settings), _name("trainer")
    stopping = threading.Event()
    worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)
    records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
    finetuner = Finetuner(settings, client, name, stopping)
    register(_crew(app, client, records, settings, name, finetuner=finetuner))
    if until_idle:
        leave_when_idle(FinetuneRecords(client), _leave)
    _consume(app, client, [FINETUNE_QUEUE], 1, name, {"role": "train", "device": settings.device},
             settings.alive_file)  # fmt: skip


def _crew(app: Celery, client: redis.Redis, records: JobRecords, settings: Settings, name: str,
          predictor: Predictor | None = None, finetuner: Finetuner | None = None) -> Crew:  # fmt: skip
    return Crew(app=app, records=records, results=Results(client), delayed=Delayed(client),
                shards=settings.queue_shards, name=name, predictor=predictor, finetuner=finetuner)  # fmt: skip


def _consume(app: Celery, client: redis.Redis, queues: list[str], threads: int, name: str,
             facts: dict[str, str], alive_file: Path | None,
             vitals: Callable[[], Mapping[str, object]] = dict,
             holds: Callable[[], list[str]] = delivery_tags,
             leaving: Callable[[], None] = lambda: None, pool: type[TaskPool] = TaskPool) -> None:  # fmt: skip
    """Run until SIGTERM: what runs is finished, what waits goes back. `leaving` runs before the last heartbeat."""
    app.steps["consumer"].add(Tidy)
    worker = app.Worker(queues=queues, pool_cls=pool, concurrency=threads, hostname=name,
                        without_gossip=True, without_mingle=True, quiet=True)  # fmt: skip
    pace = Pace(lambda: TALLY.total(IMAGES.name))
    about = {"host": socket.gethostname(), "pid": os.getpid(), **facts}
    heartbeat = Heartbeat(client, name, lambda: {**about, "images_per_s": round(pace.look(), 2), **vitals()},
                          holds=holds, alive_file=alive_file)  # fmt: skip

    def on_ready(sender: object, **_: object) -> None:
        if getattr(sender, "hostname", name) == name:
            log.info("%s is ready, consuming %s", name, ", ".join(queues))
            heartbeat.start()
            Ears(client, name, queues, slots=threads, leave=_leave_stuck).start()

    worker_ready.connect(on_ready, weak=False)
    try:
        worker.start()
    finally:
        leaving()
        heartbeat.stop()


class Tidy(bootsteps.StartStopStep):
    """Whenever Celery has connected: the errors of an outage are cycles of frames that hold images and messages.

    Left to Python they stayed for several outages: 168 MB became 204 MB in five restarts of Redis, 176 MB with this.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: object) -> None:
        gc.collect()


def _start_urgent_consumer(crew: Crew, settings: Settings) -> threading.Thread:
    """A consumer of its own for urgent jobs: with all bulk slots taken an urgent job took 1.16 s instead of 0.07 s.

    It has a Celery app of its own, because the queues to consume are a property of the app. Celery's event loop is one
    a process and belongs to the main consumer; this one polls (use_eventloop=False).
    """
    app, name = make_celery(settings), _name("urgent")
    register(replace(crew, app=app))
    worker = WorkController(app=app, queues=[INTERACTIVE_QUEUE], pool_cls="threads", use_eventloop=False,
                            concurrency=settings.interactive_threads, hostname=name,
                            without_gossip=True, without_mingle=True)  # fmt: skip
    ears = Ears(connect_redis(settings), name, [INTERACTIVE_QUEUE], slots=settings.interactive_threads,
                leave=_leave_stuck)  # fmt: skip
    thread = threading.Thread(target=worker.start, name="urgent-consumer", daemon=True)
    thread.start()
    ears.start()
    return thread


def _leave() -> None:
    """What SIGTERM does: running jobs finish, waiting ones go back, and the supervisor starts a fresh process."""
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_stuck() -> None:
    """At once, since what hangs cannot be asked to finish; its messages go back to their queues."""
    sys.stderr.flush()
    os._exit(STUCK_EXIT_CODE)


def _watch(models: Models, settings: Settings) -> None:
    """End the process when a detect call hangs: its supervisor starts it again, and Redis hands out its jobs."""

    def watch() -> None:
        while not _PAUSE.wait(WATCH_EVERY_S):
            if models.batcher.busy_for_s() > settings.detect_timeout_s:
                log.critical("detector silent for over DETECT_TIMEOUT_S=%g seconds; leaving", settings.detect_timeout_s)
                _leave_stuck()

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


_PAUSE = threading.Event()


def _name(role: str) -> str:
    return f"{role}-{os.getpid()}@{socket.gethostname()}"
