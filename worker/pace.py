"""How many images a second this process gets through, over the last minute.

Called by: worker.app, with each heartbeat. Must not import: torch, Celery.
Example: `pace = Pace(lambda: TALLY.total(IMAGES.name)); pace.look()` -> 12.5
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0


class Pace:
    """Looks at a growing total now and then."""

    def __init__(self, total: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._looks = deque([(clock(), total())])  #: (seconds, total), the oldest first

    def look(self) -> float:
        """Growth a second since the oldest look within WINDOW_S."""
        now_s, total = self._clock(), self._total()
        while len(self._looks) > 1 and now_s - self._looks[0][0] > WINDOW_S:
            self._looks.popleft()
        since_s, before = self._looks[0]
        self._looks.append((now_s, total))
        return (total - before) / (now_s - since_s) if now_s > since_s else 0.0
