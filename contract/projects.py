"""What is known of each Label Studio project: its labels' version, and which events it sent.

Called by: backend.dispatch (writes), backend.routes, groundcrew (show it). Must not import: Celery, Flask.
Nothing here is needed to predict: every request brings its label config along. It answers "what did I see last?".
Example: `Projects(client).remember(ProjectFacts(project_id=1, title="Street", config_id=..., model_version=...))`
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis
from pydantic import BaseModel, ConfigDict

_INDEX = "gc:projects"  #: set of project ids


class ProjectFacts(BaseModel):
    """One project as it was last seen."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    project_id: int
    config_id: str  #: see status.JobRecords.load_config
    model_version: str  #: the stamp that /setup returned
    title: str = ""  #: known from webhooks only


class Projects:
    """The projects of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def remember(self, facts: ProjectFacts) -> None:
        """Store what was seen; an empty title leaves the known one."""
        fields = {name: str(value) for name, value in facts if value != ""}
        with self._redis.pipeline(transaction=False) as pipe:
            for name, value in fields.items():
                pipe.hset(_facts(facts.project_id), name, value)
            pipe.sadd(_INDEX, facts.project_id)
            pipe.execute()

    def list(self) -> Sequence[ProjectFacts]:
        """All projects ever seen, by id."""
        return self._read(self._ids())

    def newest(self, count: int) -> tuple[Sequence[ProjectFacts], int]:
        """Those of the highest ids, the highest first, and how many projects there are: reads no others."""
        ids = self._ids()
        return self._read(ids[::-1][:count]), len(ids)

    def _ids(self) -> Sequence[int]:
        return sorted(int(str(project_id)) for project_id in self._redis.smembers(_INDEX))

    def _read(self, ids: Sequence[int]) -> Sequence[ProjectFacts]:
        with self._redis.pipeline(transaction=False) as pipe:
            for project_id in ids:
                pipe.hgetall(_facts(project_id))
            rows = pipe.execute()
        return [ProjectFacts.model_validate(row) for row in rows if row]

    def get(self, project_id: int) -> ProjectFacts | None:
        """One project; None where it was never seen."""
        row = self._redis.hgetall(_facts(project_id))
        return ProjectFacts.model_validate(row) if row else None

    def record_event(self, project_id: int, action: str) -> None:
        """Count an event, with the time of the last one."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(_events(project_id), action, 1)
            pipe.hset(_events(project_id), f"{action} last_s", str(time.time()))
            pipe.execute()

    def events(self, project_id: int) -> dict[str, int]:
        """How many events of each action the project has sent."""
        found = {str(name): str(value) for name, value in self._redis.hgetall(_events(project_id)).items()}
        return {name: int(value) for name, value in found.items() if not name.endswith(" last_s")}


def _facts(project_id: int) -> str:
    return f"gc:project:{project_id}"


def _events(project_id: int) -> str:
    return f"gc:events:{project_id}"
