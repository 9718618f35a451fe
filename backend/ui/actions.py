"""What the page's buttons do. Each is one call to what the API and the command line use, too.

Called by: backend.pages, once a form has passed backend.ui.guard. Must not import: Flask, worker.
Example: `Actions(dispatcher, models).promote(3, "tiny-shapes-p3-1")`
"""

from __future__ import annotations

from backend.dispatch import Dispatcher
from backend.models import ModelCards
from contract.errors import UnknownJob


class Actions:
    """All may raise GroundcrewError with a sentence for people, and redis.RedisError."""

    def __init__(self, dispatcher: Dispatcher, models: ModelCards) -> None:
        self._dispatcher, self._models = dispatcher, models

    def cancel(self, job_id: str) -> None:
        self._dispatcher.jobs.cancel(job_id)

    def replay(self, job_id: str) -> None:
        self._dispatcher.replay(job_id)

    def finetune(self, project_id: int) -> None:
        self._dispatcher.training.start(project_id, "page")

    def promote(self, project_id: int, ref: str) -> None:
        self._models.registry.promote(project_id, ref)
        self._show_new_stamp(project_id)

    def rollback(self, project_id: int) -> None:
        self._models.registry.rollback(project_id)
        self._show_new_stamp(project_id)

    def _show_new_stamp(self, project_id: int) -> None:
        """Label Studio learns it with its next /setup; people see it at once."""
        facts = self._dispatcher.projects.get(project_id)
        if facts is None:
            return
        try:
            xml, prompt_map = self._dispatcher.records.load_config(facts.config_id)
        except UnknownJob:  # it comes back with the next request of the project
            return
        self._dispatcher.remember(self._models.look_up(project_id, xml), prompt_map=prompt_map)
