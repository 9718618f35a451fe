"""The outcome of one check, as people and programs read it.

Called by: groundcrew.checks.*, groundcrew.doctor. Must not import: anything of ours.
Example: `problem("redis", "nothing answers at redis://localhost:6379", "Start Redis, or unset REDIS_URL")`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "problem", "skipped"]
_SEVERITY: tuple[Status, ...] = ("skipped", "ok", "warning", "problem")


class Check(NamedTuple):
    """One line of the doctor's report; these four fields are what --json prints."""

    name: str  #: stable, for programs
    status: Status
    message: str  #: what was found
    remedy: str = ""  #: one sentence that says what to do; empty when nothing is to be done


def ok(name: str, message: str) -> Check:
    return Check(name, "ok", message)


def warning(name: str, message: str, remedy: str) -> Check:
    """It works, but less well than it could, or not for long."""
    return Check(name, "warning", message, remedy)


def problem(name: str, message: str, remedy: str) -> Check:
    """Something does not work; the doctor's exit code is 1."""
    return Check(name, "problem", message, remedy)


def skipped(name: str, message: str) -> Check:
    """Cannot be looked at before an earlier check is ok."""
    return Check(name, "skipped", message)


def worst(checks: Sequence[Check]) -> Check:
    """The most severe one, the first of equals. Several faults of one kind are told one at a time."""
    return max(checks, key=lambda check: _SEVERITY.index(check.status))
