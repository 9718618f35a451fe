"""kombu's Redis transport with fewer trips: messages are taken and acknowledged many at a time.

Called by: kombu, by the names that contract.broker gives it; worker.intake (TAKE). Must not import: Celery, Flask.
kombu pops one message a trip, records it as unacknowledged in a second one and acknowledges it in a third: half of a
worker's processor time. Here one script does all of it for every free slot, and no kill between pop and record loses a
message. Example: `Connection("redis://127.0.0.1:6379/0").transport_cls is Transport`
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import redis
from kombu.asynchronous.hub import Hub
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.sentinel import SentinelConnectionPool

from contract.redis_connections import (
    LimitedConnection,
    LimitedSentinelConnection,
    LimitedTlsConnection,
    limit_sentinels,
)

QUIET_S = 2.0  #: an event loop that has not come round for so long does not run any more

# Acknowledges the tags ARGV[3]... and takes up to ARGV[1] messages from the queues KEYS[3]..., one of each in turn.
# Quotes within a message's body are escaped, so that the tag that is found is that of the message itself. The entry is
# what kombu reads when it gives a message back: [message, exchange, routing key].
TAKE = """
for first = 3, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
  redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
end
local free, found, queues = tonumber(ARGV[1]), {}, {unpack(KEYS, 3)}
while free > 0 and #queues > 0 do
  local filled = {}
  for _, queue in ipairs(queues) do
    local message = free > 0 and redis.call('RPOP', queue)
    if message then
      local tag = string.match(message, '"delivery_tag": ?"([^"]+)"') or ''
      if tag ~= '' then
        redis.call('ZADD', KEYS[2], ARGV[2], tag)
        redis.call('HSET', KEYS[1], tag, '[' .. message .. ',"","' .. queue .. '"]')
      end
      for _, text in ipairs({queue, tag, message}) do found[#found + 1] = text end
      filled[#filled + 1] = queue
      free = free - 1
    end
  end
  queues = filled
end
return found
"""


class Taken(NamedTuple):
    """A message in hand."""

    queue: str
    tag: str  #: under which `unacked` holds it; empty where it has none, and is not held
    message: str  #: JSON


class QoS(kombu_redis.QoS):
    """The messages in hand. Where an event loop runs, it is woken to acknowledge what is done together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.recorded: set[str] = set()  #: tags that `unacked` holds, of messages that are about to be delivered
        self._acknowledged: deque[str] = deque()
        self._woken = False

    def append(self, message: virtual.Message, delivery_tag: str) -> None:
        if delivery_tag in self.recorded:
            self.recorded.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """From any thread. After a death in between the message comes again, and its job's record says: done."""
        self._acknowledged.append(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
        if not self.channel.has_loop:
            self.channel.exchange(0)
        elif not self._woken:
            self._woken = True
            self.channel.wake()

    @property
    def has_acknowledged(self) -> bool:
        return bool(self._acknowledged)

    def pop_acknowledged(self) -> list[str]:
        """What Redis has not heard of yet; the caller tells it, or puts it back."""
        self._woken = False
        tags: list[str] = []
        with suppress(IndexError):  # another thread may do the same
            while self._acknowledged:
                tags.append(self._acknowledged.popleft())
        return tags

    def put_back(self, tags: Iterable[str]) -> None:
        self._acknowledged.extend(tags)

    def restore_unacked_once(self, stderr: object = None) -> None:
        if self._acknowledged:
            with suppress(*self.channel.connection_errors):
                self.channel.exchange(0)
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]


class Channel(kombu_redis.Channel):
    """kombu's, with one client for all commands: redis-py 8 makes one as slowly as it sends a command."""

    QoS = QoS
    connection_class, connection_class_ssl = LimitedConnection, LimitedTlsConnection
    _came_round_s = float("-inf")

    @cached_property
    def _pooled_client(self) -> redis.Redis:
        client: redis.Redis = super()._create_client()  # type: ignore[no-untyped-call]
        return client

    @cached_property
    def _take(self) -> Any:
        return self._pooled_client.register_script(TAKE)

    def _create_client(self, asynchronous: bool = False) -> redis.Redis:
        if not asynchronous:
            return self._pooled_client
        client: redis.Redis = super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        return client

    @property
    def has_loop(self) -> bool:
        return time.monotonic() - self._came_round_s < QUIET_S

    def wake(self) -> None:
        """Let the event loop come round now."""
        loop: Hub | None = self.connection.loop
        if loop is not None:
            loop.call_soon(_nothing)  # type: ignore[no-untyped-call]

    def come_round(self) -> None:
        """Acknowledge what is done, and fill the free slots. A BRPOP that waits says that the queues were empty."""
        self._came_round_s = time.monotonic()
        free = 0
        if self.active_queues and not self._in_poll:
            free = self.qos.can_consume_max_estimate() or 0
        if free or self.qos.has_acknowledged:
            self._deliver(self.exchange(free))

    def exchange(self, free: int) -> list[Taken]:
        """Acknowledge what is done, and take up to `free` messages, in one trip."""
        tags = self.qos.pop_acknowledged()
        queues = self._queue_cycle.consume(len(self.active_queues)) if free else []
        try:
            found = self._take(keys=[self.unacked_key, self.unacked_index_key, *queues],
                               args=[free, time.time(), *tags])  # fmt: skip
        except BaseException:
            self.qos.put_back(tags)
            raise
        texts = iter(map(bytes_to_str, found))
        return [Taken(*three) for three in zip(texts, texts, texts, strict=True)]

    def _deliver(self, taken: list[Taken]) -> None:
        for queue, tag, message in taken:
            if tag:
                self.qos.recorded.add(tag)
            self._queue_cycle.rotate(queue)
            self.connection._deliver(loads(message), queue)  # type: ignore[no-untyped-call]


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's, which under an event loop takes many messages before it waits for one."""

    with_loop = False

    def on_poll_start(self) -> None:
        if self.with_loop:
            for channel in list(self._channels):
                channel.come_round()
        super().on_poll_start()  # type: ignore[no-untyped-call]


class Transport(kombu_redis.Transport):
    """kombu's, with the parts above. A consumer without an event loop works as kombu's does."""

    Channel = Channel
    loop: Hub | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.cycle: Poller = Poller()  # type: ignore[assignment, no-untyped-call]

    def register_with_event_loop(self, connection: object, loop: Hub) -> None:
        self.loop, self.cycle.with_loop = loop, True
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]


class SentinelChannel(kombu_redis.SentinelChannel):
    """kombu's, whose connections give up a DNS look-up in time."""

    connection_class = LimitedSentinelConnection

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> SentinelConnectionPool:
        pool: SentinelConnectionPool = super()._sentinel_managed_pool(asynchronous)  # type: ignore[no-untyped-call]
        limit_sentinels(pool.sentinel_manager)
        return pool


class SentinelTransport(kombu_redis.SentinelTransport):
    """kombu's, with the channel above."""

    Channel = SentinelChannel


def _nothing() -> None:
    """What a loop is woken with: coming round is enough."""
