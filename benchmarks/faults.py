"""The table of faults: each row breaks one thing in a fresh crew, and Label Studio must hold every prediction once.

Called by: groundcrew.bench, tests/services/test_faults.py. Must not import: backend, worker.
Example: `run_row(find_rows("worker_killed_3_times")[0], tasks=1000, folder=Path("out"))`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
import requests

from benchmarks import faults_input, faults_label_studio, faults_redis, faults_workers
from benchmarks.faults_row import Outcome, Row
from benchmarks.faults_site import Site
from contract.errors import SettingsError

ROWS = (*faults_workers.ROWS, *faults_redis.ROWS, *faults_label_studio.ROWS, *faults_input.ROWS)


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    tasks: int
    lost: int
    duplicated: int
    seconds: float  #: of the whole row, its crew's start and stop included
    recovery_s: float  #: from the end of the fault until the last prediction was stored
    ok: bool
    reason: str = ""  #: why it is not

    def to_json(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "reason" or value}


def find_rows(names: str = "") -> Sequence[Row]:
    """All, or those named, separated by commas. Raises SettingsError."""
    if not names:
        return ROWS
    known = {row.name: row for row in ROWS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise SettingsError(f"--rows: there is no row {name}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def run_row(row: Row, *, tasks: int, folder: Path) -> Result:
    """Start a crew, break it, count. Its logs stay in `folder`."""
    began_s = time.monotonic()
    lost, doubled, recovery_s, reason = tasks, 0, 0.0, ""
    try:
        with Site.start(folder / row.name, workers=row.workers, writers=row.writers, worker_env=row.worker_env,
                        settings=row.settings) as site:  # fmt: skip
            try:
                outcome = row.run(site, tasks)
                recovery_s, reason = outcome.recovery_s, _check(row, outcome, site)
                lost = len(outcome.expected - set(list(site.label_studio.stored)))
            finally:
                doubled = site.doubles()
    except (AssertionError, OSError, redis.RedisError, requests.RequestException) as error:
        reason = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began_s, 1)
    ok = not (lost or doubled or reason)
    return Result(row.name, tasks, lost, doubled, seconds, round(recovery_s, 1), ok, reason)


def _check(row: Row, outcome: Outcome, site: Site) -> str:
    if unexpected := set(list(site.label_studio.stored)) - outcome.expected:
        return f"{len(unexpected)} predictions that nobody should have stored"
    if outcome.recovery_s > row.limit_s:
        return f"recovered after {outcome.recovery_s:.0f} s; the limit is {row.limit_s:g} s"
    return ""


def run_table(rows: Sequence[Row], *, tasks: int, folder: Path,
              show: Callable[[Result], None]) -> dict[str, int]:  # fmt: skip
    """Run them one after the other; returns the sums."""
    results = []
    for row in rows:
        results.append(run_row(row, tasks=tasks, folder=folder))
        show(results[-1])
    return {
        "rows": len(results), "tasks": sum(result.tasks for result in results),
        "lost": sum(result.lost for result in results), "duplicated": sum(result.duplicated for result in results),
        "failed_rows": sum(not result.ok for result in results),
    }  # fmt: skip
