"""`groundcrew doctor`: all checks in order, each printed as it ends, with what to do about it.

Called by: groundcrew.cli. Must not import: torch, mmdet (a check does, when it is its turn).
Example: `run_doctor(read_settings(), as_json=True)` prints {"ok": true, "checks": [...]} and returns 0
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from contract.errors import GroundcrewError, SettingsError
from contract.settings import Settings
from groundcrew.checks.check import Check, problem
from groundcrew.checks.connection import check_connection, check_webhooks
from groundcrew.checks.crew import check_api, check_crew
from groundcrew.checks.label_studio import check_label_studio, check_token
from groundcrew.checks.labels import check_labels
from groundcrew.checks.model import check_device, check_model, check_registry, check_settings
from groundcrew.checks.patient import Patient
from groundcrew.checks.queue import check_redis, check_redis_durability, check_redis_memory

log = logging.getLogger(__name__)

CheckFunction = Callable[[Patient], Check]
CHECKS: tuple[CheckFunction, ...] = (
    check_settings,
    check_redis,
    check_redis_durability,
    check_redis_memory,
    check_crew,
    check_api,
    check_label_studio,
    check_token,
    check_connection,
    check_webhooks,
    check_registry,
    check_model,
    check_device,
    check_labels,
)
COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


def run_doctor(settings: Settings | SettingsError, *, as_json: bool, checks: Sequence[CheckFunction] = CHECKS) -> int:
    """Run the checks and print them. Returns the exit code: 1 when there is a problem, else 0.

    Settings that could not be read are a problem, too: then nothing else can be looked at.
    """
    if isinstance(settings, SettingsError):
        return _report([problem("settings", settings.message, "Correct that setting.")], as_json)
    with Patient(settings) as patient:
        return _report(examine(patient, checks), as_json)


def examine(patient: Patient, checks: Sequence[CheckFunction] = CHECKS) -> Iterator[Check]:
    """The outcome of each check, in order. A check that fails itself is a problem, and the others still run."""
    for check in checks:
        name = check.__name__.removeprefix("check_")
        try:
            yield check(patient)
        except Exception as error:
            # Its kind only: texts of other libraries may hold an address with its password, or a header.
            log.debug("check %s", name, exc_info=error)
            reason = error.message if isinstance(error, GroundcrewError) else type(error).__name__
            yield problem(name, f"could not be examined: {reason}", "Run it again, with `groundcrew --debug doctor`.")


def _report(checks: Iterable[Check], as_json: bool) -> int:
    done = []
    console = Console(highlight=False)
    with nullcontext() if as_json else console.status("checking"):  # a model takes a while to load
        for check in checks:
            done.append(check)
            if not as_json:
                console.print(_as_text(check), soft_wrap=True)
    problems = sum(check.status == "problem" for check in done)
    if as_json:
        print(json.dumps({"ok": not problems, "checks": [check._asdict() for check in done]}, ensure_ascii=False))
    else:
        console.print(_conclusion(problems, sum(check.status == "warning" for check in done)))
    return 1 if problems else 0


def _as_text(check: Check) -> Text:
    text = Text.assemble((f"{check.status:<9}", COLOURS[check.status]), (f"{check.name:<17}", "bold"), check.message)
    if check.remedy:
        text.append(f"\n{'':<26}-> {check.remedy}", style="cyan")
    return text


def _conclusion(problems: int, warnings: int) -> str:
    if not problems and not warnings:
        return "Everything is fine."
    return f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}."
