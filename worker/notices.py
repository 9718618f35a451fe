"""Finds what is worth telling the outside: fine-tunes that ended, versions that changed, many finished predictions.

Called by: worker.app, in the writer process. Must not import: torch, Flask.
It compares records with what was told before, so a death of any process loses no event. One leader by a lease looks.
A bulk import is one event, when nothing of its project is open any more, not one an image.
Example: `Notices(client, registry, send, after_jobs=20).look()`
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import redis

from contract.errors import BrokerUnavailable, GroundcrewError
from contract.finetune import FinetuneRecords
from contract.jobs import NotifyJob
from contract.leases import Lease
from contract.projects import ProjectFacts, Projects
from contract.registry import Registry
from contract.rounds import Rounds
from contract.status import OPEN, STATES, JobRecords

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
LOOK_BACK_S = 3600.0  #: fine-tunes that ended longer ago are news to nobody
TOLD_TTL_S = 2 * 3600
CURRENT = "gc:notices:current"  #: hash: project -> the version that was current at the last look
ENDED = "gc:notices:ended"  #: hash: project -> JSON counts at the last event
_FINETUNE_FIELDS = ("id", "state", "requested_by", "base", "version", "decision", "code", "reason", "map", "map_base",
                    "weighted_map", "weighted_map_base")  # fmt: skip


class Notices:
    """One process's look-out; any number of writers may run one."""

    def __init__(self, client: redis.Redis, registry: Registry, send: Callable[[NotifyJob], None],
                 *, after_jobs: int) -> None:  # fmt: skip
        self._redis, self._registry, self._send, self._after = client, registry, send, after_jobs
        self._projects, self._finetunes = Projects(client), FinetuneRecords(client)
        self._records = JobRecords(client, failed_memory_s=0)
        self._lease = Lease(client, "notices", ttl_s=5 * LOOK_EVERY_S)
        self._rounds = Rounds("notices", self._try, every_s=LOOK_EVERY_S)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

    def _try(self) -> None:
        try:
            if self._lease.renew() or self._lease.acquire():
                self.look()
        except (redis.RedisError, BrokerUnavailable) as error:
            log.warning("Redis does not answer (%s); notifications wait", type(error).__name__)
        except GroundcrewError as error:
            log.warning("notifications wait: %s", error.message)

    def look(self) -> None:
        """Tell what is new."""
        for project in self._projects.list():
            self._tell_finetunes(project)
            self._tell_current(project)
            self._tell_predictions(project)

    def _tell_finetunes(self, project: ProjectFacts) -> None:
        for record in self._finetunes.latest(project.project_id):
            recent = float(str(record["updated_s"])) > time.time() - LOOK_BACK_S
            if recent and record["state"] in ("done", "failed", "cancelled"):
                self._tell_once(str(record["id"]), list(_finetune_events(project, record)))

    def _tell_once(self, key: str, events: list[NotifyJob]) -> None:
        """Told before it is marked: a death between the two tells it twice, under the same ids."""
        mark = f"gc:notices:told:{key}"
        if not self._redis.exists(mark):
            for event in events:
                self._send(event)
            self._redis.set(mark, "1", ex=TOLD_TTL_S)

    def _tell_current(self, project: ProjectFacts) -> None:
        """Promotions by a fine-tune, by `groundcrew models promote`, and roll-backs."""
        key, current = str(project.project_id), self._registry.current(project.project_id).ref
        before = self._redis.hget(CURRENT, key)
        if before is not None and str(before) != current:
            facts = {"version": current, "before": str(before)}
            self._send(_event("version.promoted", project, facts, unique=f"{before}>{current}@{time.time()}"))
        if before is None or str(before) != current:
            self._redis.hset(CURRENT, key, current)

    def _tell_predictions(self, project: ProjectFacts) -> None:
        key, counts = str(project.project_id), self._records.counts(project.project_id)
        if any(counts[state] for state in OPEN):
            return
        told = self._redis.hget(ENDED, key)
        before = json.loads(str(told)) if told is not None else dict.fromkeys(STATES, 0)
        ended = {state: counts[state] - before[state] for state in ("done", "failed", "cancelled")}
        if sum(ended.values()) >= self._after:
            reasons = self._reasons(project, ended["failed"])
            facts = {**ended, "model_version": project.model_version, "reasons": reasons}
            self._send(_event("predictions.finished", project, facts, unique=json.dumps(counts)))
            self._redis.hset(ENDED, key, json.dumps(counts))

    def _reasons(self, project: ProjectFacts, failed: int) -> dict[str, int]:
        """The latest failures by code."""
        codes = [str(row.get("code", "")) for row in self._records.recent_failures(project.project_id, max(failed, 1))]
        return {code: codes.count(code) for code in codes} if failed else {}


def _finetune_events(project: ProjectFacts, record: Mapping[str, object]) -> Iterator[NotifyJob]:
    facts = {name: record[name] for name in _FINETUNE_FIELDS if name in record}
    kind = {"done": "finished", "failed": "failed", "cancelled": "cancelled"}[str(record["state"])]
    unique = str(record["id"])
    yield _event(f"finetune.{kind}", project, facts, unique)
    if record.get("version"):
        version = {name: record[name] for name in ("version", "base", "reason") if name in record}
        yield _event("version.published", project, version, unique)
        if record.get("decision") == "refused":
            yield _event("version.refused", project, version, unique)


def _event(kind: str, project: ProjectFacts, facts: Mapping[str, object], unique: str) -> NotifyJob:
    """`unique` and the kind make the id: told twice after a death, the receiver sees the same event twice."""
    data = {"project_id": project.project_id, "project": project.title, **facts}
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    digest = hashlib.sha256(f"{project.project_id} {kind} {unique}".encode()).hexdigest()[:24]
    body = json.dumps({"type": kind, "timestamp": now, "data": data}, ensure_ascii=False)
    return NotifyJob(id=f"msg_{digest}", project_id=project.project_id, type=kind, body=body)
