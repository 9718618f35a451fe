"""Waits for what happens in other processes, with a deadline and a message that says what was missing.

Called by: tests/services.
Must not import: backend, worker.
Example: wait_for_predictions(label_studio, project, 50)
"""

import time
import urllib.error
import urllib.request
from collections.abc import Callable

from groundcrew.label_studio.client import LabelStudioClient, Prediction

DEADLINE_S = 240.0


def wait_until(
    condition: Callable[[], bool],
    what: str,
    explain: Callable[[], str] = lambda: "",
    *,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Fails after `deadline_s`; `what` ends the sentence "waited ... for", `explain` adds a log, for example."""
    ends_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends_at, f"waited {deadline_s:.0f} s for {what}\n{explain()}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a server of ours answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def wait_for_predictions(label_studio: LabelStudioClient, project: int, count: int) -> list[Prediction]:
    """Returns all stored predictions once `count` tasks of the project hold one."""

    def tasks_with_one() -> int:
        return len({prediction.task for prediction in label_studio.predictions(project)})

    wait_until(lambda: tasks_with_one() >= count, f"{count} predictions", lambda: f"there are {tasks_with_one()}")
    return label_studio.predictions(project)
