"""Ties what a task does to the job it is for: its log lines, its trace, and the messages it sends.

Called by: worker.tasks, around each task. Must not import: torch, Flask.
Example: `with follow(self.request, job): predict(crew, job)`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery.app.task import Context

from contract.jobs import Job
from contract.logs import about, facts_of
from contract.traces import span


@contextmanager
def follow(request: Context, job: Job) -> Iterator[None]:
    """`request` holds the message's headers (contract.envelopes)."""
    facts = facts_of(job)
    asked = {"request": request.request_id} if getattr(request, "request_id", None) else {}
    with about(**facts, **asked), span(job.name, facts, parent=getattr(request, "traceparent", None) or ""):
        yield
