"""Where Redis keeps the records of jobs and what is counted of them.

Called by: contract.status, contract.record_batches. Must not import: anything.
Example: `record_key("p1-t7-3fa2c19b") == "gc:job:p1-t7-3fa2c19b"`
"""

from __future__ import annotations

OPEN_KEY = "gc:open"  #: sorted set of open runs, "<job id>.<run>" as their messages are called, by last change


def record_key(job_id: str) -> str:
    return f"gc:job:{job_id}"


def counts_key(project_id: int) -> str:
    return f"gc:counts:{project_id}"


def pace_key(now_s: float) -> str:
    return f"gc:pace:{int(now_s // 60)}"


def latest_key(project_id: int) -> str:
    return f"gc:latest:{project_id}"


def failed_key(project_id: int) -> str:
    return f"gc:failed:{project_id}"


def deleted_key(project_id: int) -> str:
    return f"gc:deleted:{project_id}"
