"""What `groundcrew` ends with: a few numbers that scripts can rely on.

Called by: groundcrew.cli, docs/hooks.py (the page of exit codes). Must not import: click, backend, worker.
A number stands for what the caller can do: mend the command, try again later, look at the failed images, report a bug.
Example: `sys.exit(exit_code_of(error))`
"""

from __future__ import annotations

from enum import IntEnum

from contract.errors import GroundcrewError, RequestError, SettingsError


class ExitCode(IntEnum):
    """All numbers, with their meaning."""

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    meaning: str

    DONE = 0, "done"
    FAILED = 1, "failed; standard error says why and what to do, in one sentence"
    WRONG_USAGE = 2, "wrong usage: an argument, a flag, a prompt or a setting has a bad value"
    PARTLY_DONE = 3, "partly done: some images could not be used, the others are written"
    TRY_AGAIN = 4, "something this needs did not answer (Redis, Label Studio, an image server); try again later"
    BUG = 70, "unexpected error: run it again with --debug and report what it shows"
    INTERRUPTED = 130, "ended by Ctrl-C"


class PartlyDone(GroundcrewError):
    """Some of it could not be done; the rest is done."""

    code = "partly_done"


def exit_code_of(error: BaseException) -> ExitCode:
    """The number for an error that nothing else caught."""
    match error:
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case PartlyDone():
            return ExitCode.PARTLY_DONE
        case SettingsError() | RequestError():
            return ExitCode.WRONG_USAGE
        case GroundcrewError():
            return ExitCode.TRY_AGAIN if error.retry else ExitCode.FAILED
        case _:
            return ExitCode.BUG
