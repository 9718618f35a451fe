"""A thread that does the same thing every few seconds until it is told to stop.

Called by: contract.heartbeats, worker.gather, worker.notices, worker.reconcile. Must not import: anything of ours.
What it does must not raise: the thread would end, and nobody would notice.
Example: `rounds = Rounds("heartbeat", beat, every_s=3.0); rounds.start(); ...; rounds.stop()`
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Rounds:
    """Waits first, then calls `do`, and so on; `at_once` calls it first. `do` may return how long to wait instead."""

    def __init__(self, name: str, do: Callable[[], float | None], *, every_s: float, at_once: bool = False) -> None:
        self._do, self._every_s, self._at_once = do, every_s, at_once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the round that is under way has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        wait_s = 0.0 if self._at_once else self._every_s
        while not self._stop.wait(wait_s):
            asked_s = self._do()
            wait_s = self._every_s if asked_s is None else asked_s
