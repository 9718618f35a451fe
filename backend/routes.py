"""The routes that Label Studio calls, and those that people and monitors read. One short function each.

Called by: backend.app. Must not import: Celery, worker.
Example: POST /predict {"tasks": [...], "project": "1.1795562812", "label_config": "<View>...", "params": {}}
"""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Blueprint, Response, request

from backend.dispatch import Dispatcher
from backend.metrics import CONTENT_TYPE, outstanding, write_metrics
from backend.models import ModelCards, ProjectModel
from backend.payloads import Event, parse_json, read_images, read_predict, read_setup, read_webhook
from backend.watch import Watch
from contract.errors import PayloadError
from contract.eta import project_eta_s
from contract.prompts import read_interactive
from contract.settings import Settings

log = logging.getLogger(__name__)

JsonAnswer = dict[str, Any]  # what Flask turns into JSON


class Routes:
    """The parts a request needs, and what each route does with them."""

    def __init__(self, settings: Settings, models: ModelCards, dispatcher: Dispatcher, watch: Watch) -> None:
        self._settings = settings
        self._models = models
        self._dispatcher = dispatcher
        self._watch = watch

    def blueprint(self) -> Blueprint:
        routes = Blueprint("groundcrew", __name__)
        routes.get("/health")(self.health)
        routes.post("/setup")(self.setup)
        routes.post("/predict")(self.predict)
        routes.get("/versions")(self.versions)
        routes.post("/webhook")(self.webhook)
        routes.post("/webhook/<secret>")(self.webhook)
        routes.get("/jobs")(self.jobs)
        routes.get("/jobs/<job_id>")(self.job)
        routes.post("/jobs/<job_id>/cancel")(self.cancel_job)
        routes.get("/agreement")(self.agreement)
        routes.get("/metrics")(self.metrics)
        routes.get("/metrics/outstanding")(self.outstanding)
        return routes

    # -- what Label Studio calls -----------------------------------------------------------------------------------

    def health(self) -> JsonAnswer:
        """Always 200, and within Label Studio's one second: whether Redis and workers are there is inside."""
        return {"status": "UP", "model_class": "Groundcrew", **self._watch.facts()}

    def setup(self) -> JsonAnswer:
        setup = read_setup(parse_json(request.get_data()))
        project = self._models.look_up(setup.project_id, setup.label_config)
        self._models.advise(project)
        if self._watch.redis_answers():
            self._remember(project)
        else:
            log.warning("Redis does not answer; /setup is served without it")
        return {"model_version": project.model_version}

    def predict(self) -> JsonAnswer:
        asked = read_predict(parse_json(request.get_data()))
        project = self._models.look_up(asked.project_id, asked.label_config)
        images = read_images(asked.tasks, project.label_map)
        if asked.context is None:
            return {"results": self._dispatcher.predict(project, images, self._remember(project))}
        prompt = read_interactive(project.label_map, asked.context)
        config_id = self._remember(project)
        return {"results": [self._dispatcher.interactive(project, images[0], config_id, prompt)]}

    def versions(self) -> JsonAnswer:
        """The stamps of all projects seen, and the model versions behind them."""
        stamps = [facts.model_version for facts in self._dispatcher.projects.list()]
        return {"versions": list(dict.fromkeys(stamps)) or self._models.refs(), "models": self._models.refs()}

    def webhook(self, secret: str = "") -> JsonAnswer:
        """`secret` was checked by backend.auth."""
        event = read_webhook(parse_json(request.get_data()))
        handle = {
            "TASKS_CREATED": self._tasks_created,
            "TASKS_DELETED": self._tasks_deleted,
            "PROJECT_UPDATED": self._project_updated,
            "ANNOTATION_CREATED": self._annotated,
            "ANNOTATION_UPDATED": self._annotated,
            "ANNOTATIONS_CREATED": self._annotated,
            "ANNOTATIONS_DELETED": self._annotations_deleted,
            "START_TRAINING": self._start_training,
        }.get(event.action)
        outcome = handle(event) if handle and event.project_id else "recorded"
        if event.project_id:
            self._dispatcher.projects.record_event(event.project_id, event.action)
        return {"action": event.action, "outcome": outcome}

    def _tasks_created(self, event: Event) -> str:
        project = self._models.look_up(event.project_id, event.label_config)
        config_id = self._remember(project, event.title)
        if not self._settings.predict_new_tasks:
            return "recorded; PREDICT_NEW_TASKS is off"
        self._dispatcher.predict_new(project, read_images(event.tasks, project.label_map), config_id)
        return f"tasks being predicted: {len(event.tasks)}"

    def _tasks_deleted(self, event: Event) -> str:
        self._dispatcher.cancel(event.project_id, [task.id for task in event.tasks])
        return f"tasks whose jobs are cancelled: {len(event.tasks)}"

    def _project_updated(self, event: Event) -> str:
        project = self._models.look_up(event.project_id, event.label_config)
        self._models.advise(project)
        self._remember(project, event.title)
        return f"version {project.model_version}"

    def _annotated(self, event: Event) -> str:
        self._dispatcher.compare(event.project_id, event.submitted)
        return self._dispatcher.training.annotated(event.project_id, event.annotations)

    def _annotations_deleted(self, event: Event) -> str:
        self._dispatcher.agreement.remove(event.project_id, event.deleted_annotations, now_s=time.time())
        return "recorded"

    def _start_training(self, event: Event) -> str:
        job_id, created = self._dispatcher.training.start(event.project_id, "label-studio")
        return f"fine-tune {job_id} {'is queued' if created else 'is waiting already'}; see /jobs/{job_id}"

    # -- what people and monitors read -----------------------------------------------------------------------------

    def jobs(self) -> JsonAnswer:
        """Without `project`: the counts of all. With it: one project's counts, events and latest failures."""
        asked = request.args.get("project")
        records, projects = self._dispatcher.records, self._dispatcher.projects
        if asked is None:
            return {"projects": [{**row.model_dump(), **records.counts(row.project_id)} for row in projects.list()]}
        project_id = _read_project(asked)
        return {
            "project_id": project_id,
            "counts": records.counts(project_id),
            "eta_s": project_eta_s(records, project_id),
            "dead_letters": records.dead.count(),
            "events": projects.events(project_id),
            "failures": records.recent_failures(project_id),
            "finetunes": self._dispatcher.training.records.latest(project_id),
        }

    def job(self, job_id: str) -> JsonAnswer:
        return self._dispatcher.jobs.get(job_id)

    def cancel_job(self, job_id: str) -> JsonAnswer:
        """The record afterwards; a running fine-tune stops within seconds."""
        return self._dispatcher.jobs.cancel(job_id)

    def agreement(self) -> JsonAnswer:
        """How predictions of a project agree with its annotations, by model version, the newest first."""
        project_id = _read_project(request.args.get("project", ""))
        return {"project_id": project_id, "versions": [
            {"model_version": one.model_version, "images": one.images, "f1": one.total.f1,
             "precision": one.total.precision, "recall": one.total.recall, **vars(one.total),
             "by_label": {label: vars(counts) for label, counts in one.by_label.items()}}
            for one in self._dispatcher.agreement.versions(project_id)
        ]}  # fmt: skip

    def outstanding(self) -> JsonAnswer:
        """What each role has to do, as JSON: for autoscalers that read no Prometheus text."""
        return outstanding(self._watch, self._dispatcher)

    def metrics(self) -> Response:
        return Response(write_metrics(self._watch, self._dispatcher), content_type=CONTENT_TYPE)

    # -- small steps -----------------------------------------------------------------------------------------------

    def _remember(self, project: ProjectModel, title: str = "") -> str:
        return self._dispatcher.remember(project, title=title, prompt_map=self._models.prompt_map)


def _read_project(asked: str) -> int:
    """`project` of a query. Raises PayloadError."""
    if not (asked.isascii() and asked.isdigit() and len(asked) < 19):
        raise PayloadError("project", f"must be the number of a Label Studio project, as in {request.path}?project=1")
    return int(asked)
