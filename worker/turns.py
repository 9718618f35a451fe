"""Who may run beside whom: jobs run together, but one under suspicion runs alone in its process.

Called by: worker.tasks. Must not import: anything of ours.
A worker that died had up to 16 jobs in hand, and one of them may have killed it. Each comes again and runs alone; who
dies then is the culprit. Example: `with turns.alone(): ...`
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that many may share or one may have; whoever wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._want_alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self, count: int = 1) -> None:
        """So many more run together, from now until as many leave()."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._alone or self._want_alone))
            self._together += count

    def leave(self, count: int = 1) -> None:
        with self._changed:
            self._together -= count
            if not self._together:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._want_alone += 1
            self._changed.wait_for(lambda: not (self._alone or self._together))
            self._want_alone -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
