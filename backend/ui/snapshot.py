"""Everything a page shows, read from Redis in a handful of round trips, however many jobs there are.

Called by: backend.pages. Must not import: Flask, Celery, worker.
Example: `Reader(settings, client, registry).overview().open_count`
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import redis

from contract.agreement_records import AgreementRecords, Compared, VersionAgreement
from contract.cards import Pointer, State, VersionCard, check_ref, read_pointer
from contract.errors import RegistryError, UnknownJob
from contract.finetune import FinetuneRecords
from contract.heartbeats import alive
from contract.labels import LabelMap, read_label_config
from contract.projects import ProjectFacts, Projects
from contract.prompts import PromptWarning, estimate_tokens, lint_prompts
from contract.queue_facts import QueueFacts, queue_facts
from contract.registry import Listed, Registry
from contract.settings import Settings
from contract.status import OPEN, JobRecords
from contract.stores import open_store

PROJECTS_SHOWN = 30  #: on the overview, the newest first
FAILURES_SHOWN = 8
JOBS_A_PAGE = 50
TOKENS_READ = 256  #: of one text, its two special tokens included (MM Grounding DINO's max_tokens)

PICTURES = ("loss.png", "pr.png")  #: that a fine-tune draws beside its weights

Row = Mapping[str, object]  #: a record as JSON types


@dataclass(frozen=True)
class ProjectRow:
    """One project at a glance."""

    facts: ProjectFacts
    model: str  #: name and version of the weights that new jobs get
    counts: Mapping[str, int]
    per_s: float  #: images done a second, lately

    @property
    def id(self) -> int:
        return self.facts.project_id

    @property
    def open(self) -> int:
        return sum(self.counts[state] for state in OPEN)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def eta_s(self) -> float | None:
        return self.open / self.per_s if self.open and self.per_s else None


@dataclass(frozen=True)
class Overview:
    """The first page."""

    projects: Sequence[ProjectRow]
    hidden_projects: int
    processes: Sequence[Row]
    queues: Sequence[QueueFacts]
    finetunes: Sequence[Row]  #: that wait or run
    failures: Sequence[Row]
    open_count: int
    per_s: float

    @property
    def workers(self) -> Sequence[Row]:
        return [process for process in self.processes if process.get("role") == "predict"]

    @property
    def eta_s(self) -> float | None:
        return self.open_count / self.per_s if self.open_count and self.per_s else None


@dataclass(frozen=True)
class PromptRow:
    """One label and what the model is asked for."""

    label: str
    prompts: Sequence[str]
    tokens: int  #: about; the API has no tokenizer


@dataclass(frozen=True)
class Prompts:
    """A project's labels as the model reads them."""

    rows: Sequence[PromptRow]
    warnings: Sequence[PromptWarning]

    @property
    def tokens(self) -> int:
        """Of the whole text: each prompt is followed by a separator, two special tokens enclose all."""
        return 2 + sum(row.tokens for row in self.rows)


@dataclass(frozen=True)
class ProjectPage:
    """All about one project."""

    row: ProjectRow
    prompts: Prompts | None  #: None: Redis has lost the label config
    finetunes: Sequence[Row]
    models: Sequence[Listed]
    can_roll_back: bool
    agreement: Sequence[VersionAgreement]
    worst: Sequence[Compared]
    jobs: Sequence[Row]
    jobs_known: int
    failures: int


class Reader:
    """Reads one Redis and one registry. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, settings: Settings, client: redis.Redis, registry: Registry) -> None:
        self._settings, self._redis, self._registry = settings, client, registry
        self._store = open_store(settings)
        self._records = JobRecords(client, failed_memory_s=settings.failed_memory_s)
        self._finetunes = FinetuneRecords(client)
        self._projects = Projects(client)
        self._agreement = AgreementRecords(client)

    def overview(self) -> Overview:
        shown, known = self._projects.newest(PROJECTS_SHOWN)
        pace = self._records.pace()
        rows = self._rows(shown, pace)
        failing = [row.id for row in rows if row.counts["failed"]]
        return Overview(
            projects=sorted(rows, key=lambda row: (-row.open, -row.total, row.id)),
            hidden_projects=known - len(shown),
            processes=alive(self._redis),
            queues=queue_facts(self._redis, self._settings.queue_shards),
            finetunes=self._finetunes.open_jobs(),
            failures=self._records.latest_failures(failing, FAILURES_SHOWN),
            open_count=self._records.open_count(),
            per_s=sum(pace.values()),
        )

    def project(self, project_id: int, *, page: int = 0, failed_only: bool = False) -> ProjectPage:
        """Raises UnknownJob where the project has never been seen."""
        (row,) = self._rows([self._facts(project_id)], self._records.pace())
        listed = self._records.recent_failures if failed_only else self._records.latest
        agreement = self._agreement.versions(project_id)
        return ProjectPage(
            row=row,
            prompts=self._prompts(row.facts),
            finetunes=self._finetunes.latest(project_id),
            models=self.models(project_id),
            can_roll_back=bool(self._pointer(project_id).before),
            agreement=agreement,
            worst=self._agreement.worst(project_id, agreement[0].model_version) if agreement else [],
            jobs=listed(project_id, first=page * JOBS_A_PAGE, limit=JOBS_A_PAGE),
            jobs_known=self._records.latest_count(project_id),
            failures=row.counts["failed"],
        )

    def models(self, project_id: int | None = None) -> list[Listed]:
        """Versions, the newest first; none where MODEL_DIR cannot be read, which is logged elsewhere."""
        try:
            return self._registry.list(project_id)[::-1]
        except RegistryError:
            return []

    def version(self, ref: str) -> tuple[State, VersionCard]:
        """One version. Raises UnknownVersion."""
        for listed in self.models():
            if listed.ref == ref:
                return listed.state, listed.card
        return "candidate", self._registry.card(ref)

    def picture(self, ref: str, name: str) -> bytes | None:
        """One of PICTURES as a PNG; None where the version has none. Raises UnknownVersion for an impossible name."""
        return self._store.read(check_ref(ref), name) if name in PICTURES else None

    # -- small steps -------------------------------------------------------------------------------------------------

    def _pointer(self, project_id: int) -> Pointer:
        body = self._store.pointer(project_id, fresh=False)
        return Pointer() if body is None else read_pointer(project_id, body)

    def _facts(self, project_id: int) -> ProjectFacts:
        facts = self._projects.get(project_id)
        if facts is None:
            raise UnknownJob(f"project {project_id} has never been seen here; connect the backend in Label Studio")
        return facts

    def _rows(self, shown: Sequence[ProjectFacts], pace: Mapping[int, float]) -> list[ProjectRow]:
        counts = self._records.counts_many([facts.project_id for facts in shown])
        return [
            ProjectRow(facts, self._model(facts), counts[facts.project_id], pace.get(facts.project_id, 0.0))
            for facts in shown
        ]

    def _model(self, facts: ProjectFacts) -> str:
        try:
            return self._registry.current(facts.project_id).ref
        except RegistryError:
            return facts.model_version.rpartition(".")[0]

    def _prompts(self, facts: ProjectFacts) -> Prompts | None:
        try:
            xml, prompt_map = self._records.load_config(facts.config_id)
        except UnknownJob:
            return None
        return read_prompts(read_label_config(xml, prompt_map=prompt_map))


@lru_cache(maxsize=64)
def read_prompts(label_map: LabelMap) -> Prompts:
    """Cached, since a page asks every second and the linter compares each prompt with each other.

    A separator follows each prompt, which is why a row counts one token more than its words have.
    """
    rows = [
        PromptRow(target.label, target.prompts, sum(estimate_tokens(prompt) + 1 for prompt in target.prompts))
        for target in label_map.targets
    ]
    return Prompts(rows, lint_prompts(label_map, limit_tokens=TOKENS_READ))


def age_s(row: Row, name: str = "updated_s") -> float:
    """Seconds since a Unix time of a record; 0 where it has none."""
    moment = row.get(name)
    return max(0.0, time.time() - float(str(moment))) if moment is not None else 0.0
