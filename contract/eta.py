"""How long it takes until a project, or one job, is done: what is open divided by the pace of the last minutes.

Called by: contract.lookup, backend.routes, groundcrew.jobs. Must not import: Celery, Flask.
Example: `project_eta_s(records, 3)` is 120.0 where 600 jobs are open and 5 a second were done; None where none was
"""

from __future__ import annotations

from contract.status import OPEN, JobRecords


def project_eta_s(records: JobRecords, project_id: int) -> float | None:
    """Seconds until the open jobs of a project are done; 0 where none is, None while nothing of it gets done."""
    counts = records.counts(project_id)
    waiting = sum(counts[state] for state in OPEN)
    pace = records.pace().get(project_id, 0.0)
    if not waiting:
        return 0.0
    return round(waiting / pace, 1) if pace else None


def job_eta_s(records: JobRecords, job_id: str) -> float | None:
    """Seconds until an open job is done, at most: its project is served beside others, but not faster than all of them.

    None where it is not open, or nothing gets done. Raises UnknownJob.
    """
    job = records.stored_job(job_id)
    place, pace = records.place(job.id, job.run), sum(records.pace().values())
    if place is None or not pace:
        return None
    of_all, of_project = (place + 1) / pace, project_eta_s(records, job.project_id)
    return round(of_all if of_project is None else min(of_all, of_project), 1)
