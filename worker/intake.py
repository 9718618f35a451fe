"""Takes many messages of one queue in one step; like kombu's they stay in `unacked` until they are done.

Called by: worker.gather. Must not import: Celery, torch.
Celery spends 1.4 ms of processor on a message, most of it in three trips to Redis; here a hundred share one. One script
takes and records them, so that no kill loses any. Example: `for tag, message in intake.take(128): ...`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import redis

from contract.broker import UNACKED_INDEX_KEY, UNACKED_KEY

# A quote within a message's body is escaped, so that what is found is the tag of the message itself. The entry is what
# kombu reads when it gives a message back: [message, exchange, routing key].
_TAKE = """
local taken = redis.call('RPOP', KEYS[1], ARGV[1])
if not taken then return {} end
local found = {}
for _, message in ipairs(taken) do
  local tag = string.match(message, '"delivery_tag": ?"([^"]*)"') or 'untagged-' .. redis.sha1hex(message)
  redis.call('HSET', KEYS[2], tag, '[' .. message .. ',"","' .. KEYS[1] .. '"]')
  redis.call('ZADD', KEYS[3], ARGV[2], tag)
  found[#found + 1] = tag
  found[#found + 1] = message
end
return found
"""


class Taken(NamedTuple):
    """A message in hand."""

    tag: str  #: under which `unacked` holds it
    message: str  #: JSON, as contract.envelopes writes it


class Intake:
    """One queue of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._redis, self._queue = client, queue
        self._take = client.register_script(_TAKE)
        self._in_hand: frozenset[str] = frozenset()

    def wait(self, most_s: float) -> None:
        """Until a message waits, or most_s seconds have passed. It is moved to where it was, so nobody can lose it."""
        self._redis.blmove(self._queue, self._queue, most_s, "RIGHT", "RIGHT")  # type: ignore[arg-type]

    def take(self, most: int) -> list[Taken]:
        """The oldest messages; they are in hand until done() or forget()."""
        found = [str(one) for one in self._take(
            keys=[self._queue, UNACKED_KEY, UNACKED_INDEX_KEY], args=[most, time.time()]
        )]  # fmt: skip
        taken = [Taken(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
        self._in_hand |= {one.tag for one in taken}
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
