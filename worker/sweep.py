"""Hands what comes to one call at a time, together with all that has come meanwhile.

Called by: worker.lane. Must not import: anything of ours.
What is dear, a trip to Redis or a switch of threads, is paid once for many; what comes alone waits for nobody.
Example: `sweep = Sweep(store_all, pool.submit); sweep.add(one)`
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Sweep(Generic[T]):
    """`run(items)` in a thread that `submit` gives it; never two calls at once. An exception is logged only."""

    def __init__(self, run: Callable[[list[T]], None], submit: Callable[[Callable[[], None]], object]) -> None:
        self._run, self._submit = run, submit
        self._items: deque[T] = deque()
        self._changed = threading.Lock()
        self._running = False

    def add(self, item: T) -> None:
        self.put(item)
        self.go()

    def put(self, item: T) -> None:
        """For the next call, which go() starts."""
        self._items.append(item)

    def go(self) -> None:
        with self._changed:
            if self._running or not self._items:
                return
            self._running = True
        self._submit(self._loop)

    def _loop(self) -> None:
        while items := self._next():
            try:
                self._run(items)
            except Exception:  # the next ones are no less worth
                log.exception("%d items are lost", len(items))

    def _next(self) -> list[T]:
        with self._changed:
            items = list(self._items)
            for _ in items:
                self._items.popleft()
            self._running = bool(items)
            return items
