"""`groundcrew jobs`: how many jobs each project has in which state, what failed and why, fine-tunes, who is alive.

Called by: groundcrew.cli. Must not import: backend, worker.
Example: `print_jobs(show_jobs(settings, None, project_id=1))`
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from contract.broker import connect_redis, queue_depths
from contract.delayed import Delayed
from contract.errors import BrokerUnavailable
from contract.eta import project_eta_s
from contract.heartbeats import alive
from contract.lookup import JobLookup
from contract.projects import Projects
from contract.settings import Settings
from contract.status import STATES

MOST_FAILURES = 20
MOST_FINETUNES = 10

Json = dict[str, Any]


def show_jobs(settings: Settings, job_id: str | None, project_id: int | None) -> Json:
    """One job's record, or the overview: projects, failures and fine-tunes (newest first), queues, delayed, processes.

    Args:
        job_id: of one job, such as "p1-t7-3fa2c19b" or "ft-1-5c1d09ab".
        project_id: only this Label Studio project.

    Raises:
        UnknownJob, BrokerUnavailable.
    """
    try:
        with connect_redis(settings) as client:
            lookup = JobLookup(client, failed_memory_s=settings.failed_memory_s)
            return lookup.get(job_id) if job_id else _overview(client, lookup, settings, project_id)
    except redis.RedisError as error:
        raise BrokerUnavailable from error


def cancel_job(settings: Settings, job_id: str) -> Json:
    """Cancel what waits, tell a running fine-tune to stop; returns the record. Raises UnknownJob, BrokerUnavailable."""
    try:
        with connect_redis(settings) as client:
            return JobLookup(client, failed_memory_s=settings.failed_memory_s).cancel(job_id)
    except redis.RedisError as error:
        raise BrokerUnavailable from error


def _overview(client: redis.Redis, lookup: JobLookup, settings: Settings, project_id: int | None) -> Json:
    records = lookup.predicts
    titles = {facts.project_id: facts.title for facts in Projects(client).list()}
    chosen = [project_id] if project_id is not None else sorted(titles)
    finetunes = [row for number in chosen for row in lookup.finetunes.latest(number)]
    failures = [row for number in chosen for row in records.recent_failures(number, MOST_FAILURES)]
    return {
        "projects": [
            {"project_id": number, "title": titles.get(number, ""), **records.counts(number),
             "eta_s": project_eta_s(records, number)} for number in chosen
        ],
        "dead": records.dead.count(),
        "failures": sorted(failures, key=_changed_s, reverse=True)[:MOST_FAILURES],
        "finetunes": sorted(finetunes, key=_changed_s, reverse=True),
        "queues": queue_depths(client, settings.queue_shards),
        "delayed": Delayed(client).count(),
        "processes": alive(client),
    }


def _changed_s(row: Mapping[str, object]) -> float:
    return float(str(row["updated_s"]))


def print_jobs(found: Mapping[str, Any]) -> None:
    """What show_jobs found, as tables."""
    console = Console(highlight=False)
    if "projects" not in found:
        console.print(_job_table(found))
        return
    console.print(_project_table(found["projects"]))
    if found["failures"]:
        console.print(_failure_table(found["failures"]))
    if found["finetunes"]:
        console.print(_finetune_table(found["finetunes"][:MOST_FINETUNES]))
    if found["dead"]:
        console.print(f"Dead letters: {found['dead']}; see `groundcrew jobs dead`", markup=False, soft_wrap=True)
    console.print(f"Waiting: {_queues(found)}", markup=False, soft_wrap=True)
    names = ", ".join(str(process["name"]) for process in found["processes"])
    console.print(f"Alive: {names or 'nobody; start `groundcrew up`'}", markup=False, soft_wrap=True)


def _project_table(projects: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("Project", *(state.capitalize() for state in STATES), "Left", title="Jobs", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in projects:
        name = f"{row['project_id']} {row['title']}".strip()
        table.add_row(_plain(name), *(str(row[state]) for state in STATES), _duration(row["eta_s"]))
    return table


def _duration(seconds: float | None) -> str:
    """1:02:05; a question mark where nothing gets done, so that nobody can say."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))


def _failure_table(failures: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("Job", "Task", "When", "Reason", title="Latest failures", title_justify="left")
    for row in failures:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_changed_s(row)))
        reason = f"{row.get('code', '')}: {row.get('reason', '')}"
        table.add_row(_plain(row["id"]), str(row["task_id"]), when, _plain(reason))
    return table


def _finetune_table(finetunes: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("Job", "Project", "State", "Stage", "Version", "Reason", title="Fine-tunes", title_justify="left")
    for row in finetunes:
        known = [row.get(name, "") for name in ("id", "project_id", "state", "stage", "version", "reason")]
        table.add_row(*map(_plain, known))
    return table


def _job_table(job: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, title=f"Job {_plain(job['id'])}", title_justify="left")
    for name, value in job.items():
        shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if name in _MOMENTS else value
        table.add_row(name.removesuffix("_s"), _plain(shown))
    return table


_MOMENTS = ("updated_s", "requested_at_s")  #: Unix times


def _queues(found: Mapping[str, Any]) -> str:
    waiting = [f"{name} {depth}" for name, depth in found["queues"].items() if depth]
    if found["delayed"]:
        waiting.append(f"{found['delayed']} for their next try")
    return ", ".join(waiting) or "nothing"


def _plain(value: object) -> str:
    """Text in which square brackets mean nothing to rich."""
    return str(value).replace("[", r"\[")
