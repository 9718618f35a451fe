"""Which prompts, names and version a project's label config stands for.

Called by: backend.dispatch. No Redis and no network: /setup answers in milliseconds whatever the workers do.
Must not import: Flask, Celery, redis.
Example: `ModelCards(settings).look_up(1, xml).model_version == "tiny-shapes-1.3fa2c19b"`
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from contract.labels import LabelMap, read_label_config
from contract.prompt_map import load_prompt_map
from contract.prompts import lint_prompts
from contract.registry import Registry
from contract.settings import Settings
from contract.stamps import stamp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectModel:
    """What one project asks its tasks with."""

    project_id: int
    label_config: str
    label_map: LabelMap
    model: str  #: name and version of the weights
    model_version: str  #: the stamp that Label Studio sees


class ModelCards:
    """The registry's current version, seen through a project's labels."""

    def __init__(self, settings: Settings) -> None:
        self.registry = Registry(settings)
        self.prompt_map = load_prompt_map(settings)
        self._advised: dict[int, str] = {}

    def look_up(self, project_id: int, label_config: str) -> ProjectModel:
        """Raises LabelConfigError."""
        label_map = read_label_config(label_config, prompt_map=self.prompt_map)
        current = self.registry.current(project_id)
        return ProjectModel(project_id, label_config, label_map, current.ref, stamp(current, label_map))

    def advise(self, project: ProjectModel) -> None:
        """Log the linter's advice, once for each set of labels."""
        if self._advised.get(project.project_id) == project.model_version:
            return
        self._advised[project.project_id] = project.model_version
        for warning in lint_prompts(project.label_map):
            log.warning("project %d, label %r %s", project.project_id, warning.label or "(all)", warning.message)

    def refs(self) -> list[str]:
        """Names of all registered versions."""
        return [version.ref for version in self.registry.list()]
