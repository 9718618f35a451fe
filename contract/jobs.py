"""The messages between API, workers and writer: frozen, JSON, with a stable name and a queue.

Called by: backend.dispatch (makes them), worker.tasks (runs them). Must not import: Flask, Celery, numpy.
New fields get a default, so that messages written by an older version load for ever (tests/golden/).
Example: `PredictJob(project_id=1, task_id=7, image="/data/upload/1/a.png", ...).id == "p1-t7-3fa2c19b"`
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.agreement import Box

INTERACTIVE_QUEUE = "predict.interactive"
WRITE_QUEUE = "write"
EXPAND_QUEUE = "expand"
FINETUNE_QUEUE = "finetune"

Delivery = Literal["write", "claim", "hold", "answer"]
"""Who delivers the boxes: `write` the writer; `claim` whoever claims first, the waiting /predict or the writer (one
opened task); `hold` kept in Redis for the next /predict (no token); `answer` only the waiting caller (interactive)."""

Requester = Literal["label-studio", "cli", "page", "auto"]
"""Who asked for a fine-tune: its "Start training" button, `groundcrew finetune`, the status page, or FINETUNE_AFTER."""


def bulk_queue(project_id: int, shards: int) -> str:
    """The shard of a project: a project's jobs share one queue, and queues are served in turn.

    Label Studio numbers its projects one after the other, so that any `shards` neighbours have a queue of their own.
    """
    return f"predict.bulk.{project_id % shards}"


def bulk_queues(shards: int) -> list[str]:
    return [f"predict.bulk.{shard}" for shard in range(shards)]


def job_id(project_id: int, task_id: int, model_version: str) -> str:
    """The same task and version always give the same id: that is what makes asking twice harmless."""
    return f"p{project_id}-t{task_id}-{hashlib.sha256(model_version.encode()).hexdigest()[:8]}"


def new_run() -> str:
    """Tells two runs of the same job id apart, when a finished one is asked for again."""
    return secrets.token_hex(4)


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: ClassVar[str]  #: Celery task name, stable across releases
    deadline_s: ClassVar[float]  #: longest honest run, used for log lines and limits

    def to_json(self) -> dict[str, object]:
        """Plain JSON types, without what equals its default."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Asked(BaseModel):
    """What an interactive caller typed: prompts, the label each one is drawn with, and a threshold."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompts: tuple[str, ...]  #: as the model sees them
    labels: tuple[str, ...]  #: same length; a label of the config
    score_threshold: float | None = None


class PredictJob(Message):
    """Find boxes in one image."""

    name: ClassVar[str] = "groundcrew.predict"
    deadline_s: ClassVar[float] = 600.0

    project_id: int  #: Label Studio's
    task_id: int  #: Label Studio's; 0 where an interactive call names none
    image: str  #: address as stored in the task: URL, /data/upload/..., s3://..., data: URI
    config_id: str  #: which stored label config (status.JobRecords.save_config)
    model: str  #: name and version of the weights, for example tiny-shapes-1
    model_version: str  #: the stamp Label Studio sees: weights + prompts
    id: str  #: see job_id(); `i-...` for interactive ones
    run: str = Field(default_factory=new_run)
    delivery: Delivery = "write"
    asked: Asked | None = None
    replaces: str = ""  #: model_version whose prediction of this task goes, once this one is stored
    hurry: bool = False  #: someone waits at the screen, whatever the delivery
    attempt: int = 0  #: tries so far that ended in an error worth retrying
    enqueued_at_s: float = Field(default_factory=time.time)  #: Unix time
    expires_at_s: float | None = None  #: Unix time after which nobody waits any more

    @property
    def urgent(self) -> bool:
        return self.hurry or self.delivery in ("claim", "answer")

    def queue(self, shards: int) -> str:
        return INTERACTIVE_QUEUE if self.urgent else bulk_queue(self.project_id, shards)


class Prediction(BaseModel):
    """What a predict job found, in Label Studio's form."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: int
    model_version: str
    score: float  #: 0 to 1; 0 where nothing was found
    result: list[dict[str, object]]  #: Label Studio regions, percent of the image

    def to_label_studio(self) -> dict[str, object]:
        """The body Label Studio's endpoints take, without the task."""
        return {"model_version": self.model_version, "score": self.score, "result": self.result}


class WriteBackJob(Message):
    """Store one prediction in Label Studio. A job of its own: an outage repeats a small POST, never a GPU pass."""

    name: ClassVar[str] = "groundcrew.write_back"
    deadline_s: ClassVar[float] = 120.0

    id: str  #: of the predict job
    run: str
    project_id: int
    prediction: Prediction
    replaces: str = ""  #: see PredictJob
    asked_at_s: float = 0.0  #: Unix time of the predict job's request; 0 where it is not known
    verify: bool = False  #: look at what Label Studio holds before writing
    attempt: int = 0

    def queue(self, shards: int) -> str:
        return WRITE_QUEUE


class NewTask(BaseModel):
    """One task of an ExpandJob."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: int
    image: str


class ExpandJob(Message):
    """Fan out many tasks into predict jobs, outside the HTTP request that named them."""

    name: ClassVar[str] = "groundcrew.expand"
    deadline_s: ClassVar[float] = 300.0

    project_id: int
    tasks: tuple[NewTask, ...]
    config_id: str
    model: str
    model_version: str
    delivery: Delivery = "write"
    replaces: str = ""  #: see PredictJob

    def queue(self, shards: int) -> str:
        return EXPAND_QUEUE

    def predict_jobs(self) -> list[PredictJob]:
        return [
            PredictJob(
                project_id=self.project_id,
                task_id=task.task_id,
                image=task.image,
                config_id=self.config_id,
                model=self.model,
                model_version=self.model_version,
                id=job_id(self.project_id, task.task_id, self.model_version),
                delivery=self.delivery,
                replaces=self.replaces,
            )
            for task in self.tasks
        ]


class Submitted(BaseModel):
    """What an annotator handed in for one task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    annotation_id: int
    task_id: int
    created_s: float  #: Unix time
    updated_s: float  #: Unix time
    parent_prediction: int = 0  #: the prediction that the annotator began with; 0: Label Studio does not say
    skipped: bool = False
    boxes: tuple[Box, ...] = ()


class CompareJob(Message):
    """Compare annotations with the predictions that their annotators saw. See contract.agreement."""

    name: ClassVar[str] = "groundcrew.compare"
    deadline_s: ClassVar[float] = 300.0

    project_id: int
    submitted: tuple[Submitted, ...]
    attempt: int = 0

    def queue(self, shards: int) -> str:
        return EXPAND_QUEUE


class FinetuneJob(Message):
    """Make a better version for one project out of its annotations, by a trainer. See contract.finetune."""

    name: ClassVar[str] = "groundcrew.finetune"
    deadline_s: ClassVar[float] = 7 * 24 * 3600.0  #: a lease, not the message, says whether it still runs

    id: str  #: "ft-<project>-<8 hex digits>"
    project_id: int  #: Label Studio's
    requested_by: Requester
    base: str = ""  #: name and version of the weights to start from; empty: what is current when it starts
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)  #: over the trainer's defaults
    requested_at_s: float = Field(default_factory=time.time)  #: Unix time

    def queue(self, shards: int) -> str:
        return FINETUNE_QUEUE



class NotifyJob(Message):
    """Tell the receiver at NOTIFY_URL about one event. See worker.notify."""

    name: ClassVar[str] = "groundcrew.notify"
    deadline_s: ClassVar[float] = 30.0

    id: str  #: the same through all tries, so that the receiver can drop repetitions
    project_id: int
    type: str  #: for example finetune.finished
    body: str  #: JSON as it is signed and sent
    attempt: int = 0

    def queue(self, shards: int) -> str:
        return EXPAND_QUEUE


Job = PredictJob | WriteBackJob | ExpandJob | CompareJob | FinetuneJob | NotifyJob
