"""Takes many messages of one queue in one step; like kombu's they stay in `unacked` until they are done.

Called by: worker.gather. Must not import: Celery, torch.
kombu and Celery spent 1.4 ms of processor on each: trips to Redis, a request object, a hand-over to a thread. Here all
share one trip and one thread. Example: `taken = intake.take(1000); ...; intake.done([one.tag for one in taken])`
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis

from contract.broker import UNACKED_INDEX_KEY, UNACKED_KEY
from contract.redis_transport import TAKE, Taken


class Intake:
    """One queue of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._redis, self._queue = client, queue
        self._take = client.register_script(TAKE)
        self._in_hand: frozenset[str] = frozenset()

    def wait(self, most_s: float) -> None:
        """Until a message waits, or most_s seconds have passed. It is moved to where it was, so nobody can lose it."""
        self._redis.blmove(self._queue, self._queue, most_s, "RIGHT", "RIGHT")  # type: ignore[arg-type]

    def take(self, most: int) -> list[Taken]:
        """The oldest messages; they are in hand until done() or forget()."""
        found = self._take(keys=[UNACKED_KEY, UNACKED_INDEX_KEY, self._queue], args=[most, time.time()])
        texts = map(str, found)
        taken = [Taken(*three) for three in zip(texts, texts, texts, strict=True)]
        self._in_hand |= {one.tag for one in taken if one.tag}
        return taken

    def done(self, tags: Sequence[str]) -> None:
        """Acknowledge them."""
        with self._redis.pipeline() as pipe:
            pipe.zrem(UNACKED_INDEX_KEY, *tags)
            pipe.hdel(UNACKED_KEY, *tags)
            pipe.execute()
        self._in_hand -= set(tags)

    def forget(self) -> None:
        """What is in hand has no owner any more: the reconciler gives it back to the queue."""
        self._in_hand = frozenset()

    def in_hand(self) -> list[str]:
        """Tags of what was taken and is not done, as a heartbeat says them."""
        return list(self._in_hand)
