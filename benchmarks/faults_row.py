"""One row of the table of faults: what it is called, what it does to a crew, and how soon all must be well again.

Called by: benchmarks/faults.py and the modules with the rows. Must not import: backend, worker.
Example: `Row("worker_killed", kill_worker, limit_s=60)`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.faults_site import Site

SETTLE_S = 60.0  #: for what is checked later, such as claims of the API
WORK_S = 120.0  #: for the work itself, beside the recovery

Key = tuple[int, str]  # task, model version


class Outcome(NamedTuple):
    """What a row expects Label Studio to hold at its end, no more and no less, and when."""

    expected: frozenset[Key]
    recovery_s: float  #: from the end of the fault until the last of them was there


@dataclass(frozen=True)
class Row:
    """`run(site, tasks)` breaks something; AssertionError and TimeoutError make the row fail."""

    name: str
    run: Callable[[Site, int], Outcome]
    limit_s: float  #: longest recovery, the rest of the work included
    workers: int = 1
    writers: int = 1
    worker_env: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


def finish(site: Site, tasks: Iterable[int], version: str, fault_ended_s: float) -> Outcome:
    """Wait for the predictions of all tasks, and for everything that might still add one."""
    wanted = frozenset(tasks)
    site.wait_stored(wanted, version, WORK_S)
    recovery_s = time.monotonic() - fault_ended_s
    site.wait_settled(SETTLE_S)
    return Outcome(frozenset((task, version) for task in wanted), recovery_s)


def numbers(count: int) -> range:
    """Task ids."""
    return range(1, count + 1)
