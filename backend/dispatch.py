"""From a read request to jobs, and from their results to an answer. The only caller of the broker.

Called by: backend.routes. Must not import: Flask, worker.
One kind of request, one method: many tasks (`later`), one opened task (`now`), one without a token (`sync`),
a prompt typed in the editor (`interactive`). Each may raise BrokerUnavailable or QueueFull.
Example: `Dispatcher(settings).predict(project, images) -> [[], []]`, and the boxes follow by write-back
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from backend.models import ProjectModel
from backend.payloads import TaskImage
from backend.room import SEATS, Room
from backend.training import Training
from contract.agreement_records import AgreementRecords
from contract.broker import connect_redis, make_celery, send
from contract.delayed import Delayed
from contract.errors import GroundcrewError, PredictionFailed, PredictionLate, QueueFull, UnknownJob
from contract.jobs import (
    Asked,
    CompareJob,
    Delivery,
    ExpandJob,
    Job,
    NewTask,
    Prediction,
    PredictJob,
    Submitted,
    WriteBackJob,
    job_id,
    new_run,
)
from contract.logs import about, facts_of
from contract.lookup import JobLookup
from contract.projects import ProjectFacts, Projects
from contract.prompts import InteractivePrompt
from contract.replay import replay_job
from contract.results import Results
from contract.settings import Settings
from contract.status import OPEN, JobRecords
from contract.traces import span

log = logging.getLogger(__name__)

Answer = Mapping[str, object] | list[object]  #: one entry of /predict's `results`; [] is "not yet"

COMPARED_A_MESSAGE = 100  #: annotations
DIRECT_TASKS = 20  #: up to so many jobs are sent by the request itself, about 1 ms each; more are left to a worker
EXPAND_AGAIN_S = 60.0  #: when many tasks are still not expanded after this time, their message was lost


class Dispatcher:
    """Sends jobs over one Redis and waits for some of them."""

    def __init__(self, settings: Settings, *, seats: int = SEATS, results: Results | None = None) -> None:
        self._settings = settings
        self._redis = connect_redis(settings)
        self._app = make_celery(settings, publish_only=True)
        self.records = JobRecords(self._redis, failed_memory_s=settings.failed_memory_s)
        self._room = Room(settings, self._redis, self.records, seats=seats)
        self.results = results or Results(self._redis)
        self.projects = Projects(self._redis)
        self.agreement = AgreementRecords(self._redis)
        self.training = Training(settings, self._redis, self._send)
        self.jobs = JobLookup(self._redis, failed_memory_s=settings.failed_memory_s)
        self._delayed = Delayed(self._redis)

    # -- projects --------------------------------------------------------------------------------------------------

    def remember(self, project: ProjectModel, *, title: str = "", prompt_map: Mapping[str, str]) -> str:
        """Store the label config for the workers, and what to show of the project; returns the config's id."""
        config_id = self.records.save_config(project.label_config, prompt_map)
        facts = ProjectFacts(
            project_id=project.project_id, config_id=config_id, model_version=project.model_version, title=title
        )
        self.projects.remember(facts)
        return config_id

    # -- the four kinds of request -----------------------------------------------------------------------------------

    def predict(self, project: ProjectModel, images: Sequence[TaskImage], config_id: str) -> list[Answer]:
        """One answer a task, in order."""
        self._room.check(len(images), project.project_id)
        usable = self._fail_unusable(project, images, config_id)
        if not self._settings.can_write_back:
            return self._predict_sync(project, images, usable, config_id)
        if len(images) == len(usable) == 1:
            return [self._predict_now(self._job(project, usable[0], config_id, "claim"))]
        self._predict_later(project, usable, config_id, "write")
        return [[] for _ in images]

    def predict_new(self, project: ProjectModel, images: Sequence[TaskImage], config_id: str) -> None:
        """Tasks that were just created, with nobody waiting. Without a token boxes are kept until asked for."""
        self._room.check(len(images), project.project_id)
        delivery: Delivery = "write" if self._settings.can_write_back else "hold"
        self._predict_later(project, self._fail_unusable(project, images, config_id), config_id, delivery)

    def interactive(
        self, project: ProjectModel, image: TaskImage, config_id: str, prompt: InteractivePrompt
    ) -> Mapping[str, object]:
        """Boxes for what someone typed; nothing is stored. Raises PredictionFailed, PredictionLate."""
        self._room.check(1, project.project_id)
        asked = Asked(prompts=prompt.prompts, labels=prompt.labels, score_threshold=prompt.score_threshold)
        wait_s = self._settings.sync_wait_s
        job = self._job(project, image, config_id, "answer").model_copy(
            update={"id": f"i-{new_run()}", "asked": asked, "expires_at_s": time.time() + wait_s}
        )
        with self._room.seat() as seated:
            if not seated:
                raise QueueFull("too many requests are waiting for boxes already; ask again in a moment")
            self._send(*self.records.admit([job]))
            prediction = self.results.wait(job, wait_s)
        if prediction is None:
            raise self._give_up(job)
        return prediction.to_label_studio()

    def replay(self, job_id: str) -> None:
        """Run a failed job anew, however lately it failed. Raises UnknownJob."""
        replay_job(job_id, JobRecords(self._redis, failed_memory_s=0), self._send)

    def cancel(self, project_id: int, task_ids: Sequence[int]) -> None:
        """Jobs of deleted tasks end as cancelled when a worker or the writer meets them."""
        self.records.mark_deleted(project_id, task_ids)

    def compare(self, project_id: int, submitted: Sequence[Submitted]) -> None:
        """Have annotations compared with their predictions, which only someone with a token can fetch."""
        if self._settings.can_write_back:
            chunks = (submitted[at : at + COMPARED_A_MESSAGE] for at in range(0, len(submitted), COMPARED_A_MESSAGE))
            self._send(*(CompareJob(project_id=project_id, submitted=tuple(chunk)) for chunk in chunks))

    # -- one opened task -------------------------------------------------------------------------------------------

    def _predict_now(self, job: PredictJob) -> Answer:
        """Wait a short while; then leave the delivery to the writer. One claim decides, so never both deliver."""
        running = self._admit_or_join(job)
        if running is None:
            return []
        with self._room.seat() as seated:
            prediction = self.results.wait(running, self._settings.predict_wait_s if seated else 0)
        if prediction is None:
            self._leave_to_writer(running)
            return []
        if not self.results.claim(running, "api"):
            return []
        self._finish(running, prediction)
        return prediction.to_label_studio()

    def _admit_or_join(self, job: PredictJob) -> PredictJob | None:
        """The run to wait for: this one, or the one that waits in the bulk queue, which is overtaken.

        None where there is nothing to wait for: it failed a moment ago, or a worker has it and will deliver.
        """
        if self.records.admit([job]):
            self._send(job)
            return job
        waiting = self._under_way(job, states=("queued",))
        if waiting is None:
            return None
        # Same id, same run: whichever of the two messages comes first is the one that runs.
        urgent = waiting.model_copy(update={"delivery": job.delivery})
        self._send(urgent)
        return urgent

    def _leave_to_writer(self, job: PredictJob) -> None:
        # We claim, then look for a result; a worker stores its result, then looks at the claim: one of us acts.
        if self.results.claim(job, "writer") and (late := self.results.get(job)):
            self._send(WriteBackJob(id=job.id, run=job.run, project_id=job.project_id, prediction=late))

    # -- many tasks ------------------------------------------------------------------------------------------------

    def _predict_later(
        self, project: ProjectModel, images: Sequence[TaskImage], config_id: str, delivery: Delivery
    ) -> None:
        if len(images) <= DIRECT_TASKS:
            self._send(*self.records.admit(self._jobs(project, images, config_id, delivery)))
            return
        tasks = tuple(NewTask(task_id=image.task_id, image=image.image) for image in images)
        expand = ExpandJob(
            project_id=project.project_id, tasks=tasks, config_id=config_id,
            model=project.model, model_version=project.model_version, delivery=delivery,
        )  # fmt: skip
        # These tasks have no records yet that a reconciler could miss, so a copy of the message stands by.
        self._delayed.add(expand, after_s=EXPAND_AGAIN_S)
        self._send(expand)

    # -- without a token -------------------------------------------------------------------------------------------

    def _predict_sync(
        self, project: ProjectModel, images: Sequence[TaskImage], usable: Sequence[TaskImage], config_id: str
    ) -> list[Answer]:
        """What is ready within sync_wait_s. The rest is kept in Redis until it is asked for again."""
        jobs = self._jobs(project, usable, config_id, "hold", hurry=len(usable) == 1)
        held = self.results.get_many(jobs)
        found = {job.task_id: prediction for job, prediction in zip(jobs, held, strict=True) if prediction}
        runs = self._admit_or_join_all([job for job in jobs if job.task_id not in found])
        found |= self._wait_for_all(runs)
        return [found[image.task_id].to_label_studio() if image.task_id in found else [] for image in images]

    def _admit_or_join_all(self, jobs: Sequence[PredictJob]) -> list[PredictJob]:
        """The runs to wait for: new ones, and those under way; where someone hurries, the bulk queue is overtaken."""
        admitted = self.records.admit(jobs)
        self._send(*admitted)
        new = {job.id for job in admitted}
        joined = [run for job in jobs if job.id not in new and (run := self._under_way(job, states=OPEN))]
        if joined and jobs[0].hurry and not joined[0].urgent:
            self._send(joined[0].model_copy(update={"hurry": True}))
        return [*admitted, *joined]

    def _wait_for_all(self, jobs: Sequence[PredictJob]) -> dict[int, Prediction]:
        with self._room.seat() as seated:
            end = time.monotonic() + (self._settings.sync_wait_s if seated else 0)
            waited = {job.task_id: self.results.wait(job, end - time.monotonic()) for job in jobs}
        return {task_id: prediction for task_id, prediction in waited.items() if prediction is not None}

    # -- small steps -----------------------------------------------------------------------------------------------

    def _job(
        self, project: ProjectModel, image: TaskImage, config_id: str, delivery: Delivery, *, hurry: bool = False
    ) -> PredictJob:
        return PredictJob(
            project_id=project.project_id, task_id=image.task_id, image=image.image, config_id=config_id,
            model=project.model, model_version=project.model_version, delivery=delivery, hurry=hurry,
            id=job_id(project.project_id, image.task_id, project.model_version),
        )  # fmt: skip

    def _jobs(
        self,
        project: ProjectModel,
        images: Sequence[TaskImage],
        config_id: str,
        delivery: Delivery,
        *,
        hurry: bool = False,
    ) -> list[PredictJob]:
        """One job a task, even where a task is listed twice."""
        jobs = [self._job(project, image, config_id, delivery, hurry=hurry) for image in images]
        return list({job.id: job for job in jobs}.values())

    def _fail_unusable(self, project: ProjectModel, images: Sequence[TaskImage], config_id: str) -> list[TaskImage]:
        """Record tasks without an image as failed, with the reason, and return the others."""
        for image in images:
            if image.problem is not None:
                (job,) = self._jobs(project, [image], config_id, "write")
                if self.records.admit([job]):
                    self.records.fail(job.id, job.run, job.project_id, image.problem)
                log.warning("task %d: %s", image.task_id, image.problem.message)
        return [image for image in images if image.problem is None]

    def _under_way(self, job: PredictJob, *, states: Sequence[str]) -> PredictJob | None:
        """The stored job of this id, if it is in one of the states."""
        try:
            if self.records.get(job.id)["state"] in states:
                return self.records.stored_job(job.id)
        except UnknownJob:  # its record has just expired
            return None
        return None

    def _finish(self, job: PredictJob, prediction: Prediction) -> None:
        self.records.finish(job.id, job.run, job.project_id, boxes=len(prediction.result))

    def _give_up(self, job: PredictJob) -> GroundcrewError:
        """Why there is no result. A job that still waits is cancelled, so that nobody works for no one."""
        record = self.records.get(job.id)
        if record["state"] == "failed":
            return PredictionFailed(f"{record['reason']} ({record['code']})")
        late = PredictionLate()
        self.records.cancel(job.id, job.run, job.project_id, late.message)
        return late

    def _send(self, *jobs: Job) -> None:
        if not jobs:
            return
        with span("groundcrew.send", {"project": jobs[0].project_id, "jobs": len(jobs)}):
            send(self._app, jobs, shards=self._settings.queue_shards)
        for job in jobs:
            with about(**facts_of(job)):
                log.info("sent %s", job.name)
