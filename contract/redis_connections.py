"""Connections to Redis whose DNS look-up ends in time, for redis-py's clients and kombu's.

Called by: contract.broker, contract.sentinel, contract.redis_transport. Must not import: Celery, Flask.
redis-py's timeouts do not reach the system's resolver: one that hangs would hold each request of the API.
Example: `redis.Redis.from_url("redis://redis:6379/0", connection_class=LimitedConnection)`
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection

from contract.dns import MOST_LOOK_UPS, limit_of, look_up

_PLACES = threading.BoundedSemaphore(MOST_LOOK_UPS)  #: of its own: names in images' addresses take none of them


class LimitedConnection(redis.Connection):
    """Resolves the name within socket_connect_timeout, and connects to the first of its addresses that answers."""

    def _connect(self) -> socket.socket:
        """Raises OSError: no address answers, or none is found in time."""
        name = self.host
        try:
            *others, last = self._find_addresses()
            for address in others:
                with suppress(OSError):
                    return self._connect_by(address)
            return self._connect_by(last)
        finally:
            self.host = name  # which is what a certificate is for

    def _connect_by(self, address: str) -> socket.socket:
        self.host = address
        return super()._connect()  # type: ignore[no-any-return, no-untyped-call]

    def _find_addresses(self) -> list[str]:
        limit_s = limit_of(self.socket_connect_timeout)
        try:
            return look_up(self.host, self.port, limit_s, _PLACES)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"DNS gave no answer within {limit_s:g} seconds") from None


class LimitedTlsConnection(redis.SSLConnection, LimitedConnection):
    """The same for rediss://."""


LIMITED = {"redis": LimitedConnection, "rediss": LimitedTlsConnection}  #: by the scheme of an address


class LimitedSentinelConnection(SentinelManagedConnection, LimitedConnection):
    """The same for the master that sentinels name."""


def limit_sentinels(sentinel: Sentinel) -> None:
    """The same for the sentinels themselves; redis-py has no setting for it. Where one is silent, the next is asked."""
    for client in sentinel.sentinels:
        client.connection_pool.connection_class = LimitedConnection
        client.set_retry(Retry(NoBackoff(), 0))  # ten tries otherwise
