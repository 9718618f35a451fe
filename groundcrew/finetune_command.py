"""`groundcrew finetune`: asks for a fine-tune as the button in Label Studio does, and shows how far it is.

Called by: groundcrew.cli. Must not import: worker, torch.
The job belongs to the trainer: ending this command leaves it running; `groundcrew jobs cancel ID` ends it.
Example: `job_id = request_finetune(settings, 3, base="", options={})`, then `follow(settings, job_id)`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from backend.training import Training
from contract.broker import connect_redis, make_celery, send
from contract.errors import BrokerUnavailable, GroundcrewError, SettingsError
from contract.finetune import FinetuneJob, FinetuneRecords
from contract.heartbeats import alive
from contract.settings import Settings

LOOK_EVERY_S = 0.5

Json = dict[str, Any]
Option = str | int | float | bool


class FinetuneFailed(GroundcrewError):
    """The fine-tune failed or was cancelled."""

    code = "finetune_failed"


def request_finetune(settings: Settings, project_id: int, *, base: str, options: Mapping[str, Option]) -> str:
    """Ask for a fine-tune, or join the one that waits; returns its id. Raises BrokerUnavailable."""
    app = make_celery(settings, publish_only=True)

    def send_job(job: FinetuneJob) -> None:
        send(app, [job], shards=settings.queue_shards)

    with _redis(settings) as client:
        job_id, _ = Training(settings, client, send_job).start(project_id, "cli", base=base, options=options)
        return job_id


def trainers(settings: Settings) -> list[str]:
    """Names of the trainers that are alive. Raises BrokerUnavailable."""
    with _redis(settings) as client:
        return [str(process["name"]) for process in alive(client) if process.get("role") == "train"]


def follow(settings: Settings, job_id: str, console: Console | None = None) -> Json:
    """Show a progress bar until the job is over; returns its record.

    Raises:
        FinetuneFailed: it failed or was cancelled; the reason is in the message.
        UnknownJob, BrokerUnavailable.
    """
    with _redis(settings) as client:
        record = _follow(FinetuneRecords(client), job_id, console or Console(stderr=True, highlight=False))
    if record["state"] != "done":
        raise FinetuneFailed(f"{job_id} {record['state']}: {record.get('reason', '')}")
    return record


def _follow(records: FinetuneRecords, job_id: str, console: Console) -> Json:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("queued", total=None, facts="")
        while (record := records.get(job_id))["state"] in ("queued", "running"):
            draw(bar, task, record)
            time.sleep(LOOK_EVERY_S)
    return record


def draw(bar: Progress, task: TaskID, record: Mapping[str, Any]) -> None:
    """How far the stage is, by what it counts: images, or updates of the training."""
    stage = record.get("stage", record["state"])
    done, total = ("stage_done", "stage_total") if "stage_total" in record else ("iteration", "iterations")
    bar.update(task, description=stage, total=record.get(total), completed=record.get(done, 0), facts=describe(record))


def describe(record: Mapping[str, Any]) -> str:
    """How far a fine-tune is: `epoch 3/12, loss 1.84, weighted mAP 0.52, 40 s left`. Only what is known."""
    epochs, total = (f"/{record[name]}" if name in record else "" for name in ("epochs", "stage_total"))
    known: dict[str, Callable[[Any], str]] = {
        "stage_done": lambda value: f"{value}{total} images",
        "epoch": lambda value: f"epoch {value}{epochs}",
        "loss": lambda value: f"loss {value:.3g}",
        "weighted_map": lambda value: f"weighted mAP {value:.3f}",
        "eta_s": lambda value: f"{value:.0f} s left",
        "cancel_requested": lambda _: "stopping",
    }
    return ", ".join(say(record[name]) for name, say in known.items() if name in record)


def conclude(record: Mapping[str, Any]) -> str:
    """What came of a fine-tune that is done, in words."""
    version, reason = record["version"], record.get("reason", "")
    if record.get("decision") == "promoted":
        return f"{version} is now the current version of project {record['project_id']}: {reason}"
    return (
        f"{version} was refused, the current version stays: {reason.removesuffix('.')}; "
        f"`groundcrew models promote {version}` takes it all the same"
    )


def read_options(pairs: tuple[str, ...]) -> dict[str, Option]:
    """`("epochs=5", "amp=true")` -> {"epochs": 5, "amp": True}. Raises SettingsError."""
    found: dict[str, Option] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise SettingsError(f"--set {pair}: must be NAME=VALUE, for example epochs=5")
        found[name] = _as_option(value)
    return found


def _as_option(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextmanager
def _redis(settings: Settings) -> Iterator[redis.Redis]:
    try:
        with connect_redis(settings) as client:
            yield client
    except redis.RedisError as error:
        raise BrokerUnavailable from error
