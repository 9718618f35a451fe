"""What the API can say about the rest of the system at a glance: Redis, queues, processes.

Called by: backend.routes, backend.metrics, backend.pages. Must not import: Flask.
Its Redis client gives up quickly: Label Studio waits one second for /health, three for /setup.
Example: `Watch(settings).facts() -> {"redis": "up", "open_jobs": 259, "write_back": True}`
"""

from __future__ import annotations

import redis

from contract.broker import connect_redis
from contract.heartbeats import alive
from contract.meters import TALLY
from contract.record_keys import OPEN_KEY
from contract.settings import Settings

TIMEOUT_S = 0.3


class Watch:
    """Looks at one Redis. Only `redis_answers` and `facts` never raise redis.RedisError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect_redis(settings, timeout_s=TIMEOUT_S)

    @property
    def client(self) -> redis.Redis:
        return self._redis

    @property
    def shards(self) -> int:
        return self._settings.queue_shards

    def push_counts(self) -> None:
        """Add what this API process has counted to the sums of all processes."""
        TALLY.push(self._redis)

    def redis_answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def facts(self) -> dict[str, object]:
        """For /health: is Redis there, how many jobs are open, can results be written back."""
        write_back = self._settings.can_write_back
        try:
            self.push_counts()  # probes come every few seconds, to each API process: that is often enough
            return {"redis": "up", "open_jobs": int(self._redis.zcard(OPEN_KEY)), "write_back": write_back}
        except redis.RedisError as error:
            return {"redis": f"down ({type(error).__name__})", "write_back": write_back}

    def processes(self) -> list[dict[str, object]]:
        """Workers and writers that are alive."""
        return alive(self._redis)
