"""Log lines that can be followed: each names the request, job, task and project it is about, from API to write-back.

Called by: process entry points (configure_logs), backend.app, worker.following, contract.envelopes. No Celery.
The facts travel in a context variable inside a process and in message headers between processes (contract.envelopes).
Example: {"time": "2026-11-25T04:00:00.123Z", "level": "INFO", "role": "write", "message": "stored", "job": "p1-t7-...",
"task": 7, "project": 1, "request": "8f0c..."} with LOG_FORMAT=json
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from contract.jobs import Job, WriteBackJob
from contract.redact import RedactingFormatter, secrets_of
from contract.settings import Settings

Facts = Mapping[str, str | int]
_facts: ContextVar[Facts] = ContextVar("facts", default={})  # noqa: B039 - never changed, only replaced


def configure_logs(settings: Settings, role: str) -> None:
    """Log to standard error in LOG_FORMAT at LOG_LEVEL."""
    handler = logging.StreamHandler()
    text = logging.Formatter(f"%(asctime)s {role:<7} %(levelname)s %(message)s")
    plain = JsonFormatter(role) if settings.log_format == "json" else text
    handler.setFormatter(RedactingFormatter(plain, secrets_of(settings)))
    logging.basicConfig(level=settings.log_level, handlers=[handler])


def begin_facts(**facts: str | int) -> None:
    """What this thread works on from now on, in place of whatever it worked on before."""
    _facts.set(facts)


@contextmanager
def about(**facts: str | int) -> Iterator[None]:
    """Add facts to the log lines, and to the messages, of a block."""
    token = _facts.set({**_facts.get(), **facts})
    try:
        yield
    finally:
        _facts.reset(token)


def current_request() -> str:
    """Id of the HTTP request that all this is about; empty where there was none."""
    return str(_facts.get().get("request", ""))


def facts_of(job: Job) -> dict[str, str | int]:
    """Ids of a job; never an address, a token or a label."""
    task_id = job.prediction.task_id if isinstance(job, WriteBackJob) else getattr(job, "task_id", 0)
    job_id = getattr(job, "id", "")
    found = {"job": job_id, "task": task_id, "project": job.project_id}
    return {name: value for name, value in found.items() if value}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {
            "time": time,
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
