"""Messages whose worker is gone: they are in kombu's `unacked`, and no living process says that it has them in hand.

Called by: worker.reconcile. Must not import: torch, Flask.
kombu gives such a message back after the visibility timeout, which has to be longer than the longest job; heartbeats
tell within seconds. Example: `Unclaimed(app, client).give_back()`
"""

from __future__ import annotations

import logging
import time

import redis
from celery import Celery

from contract.broker import UNACKED_KEY
from contract.heartbeats import held

log = logging.getLogger(__name__)

GIVE_BACK_AFTER_S = 9.0  #: three beats: longer than the first beat after a message was taken may be late


class Unclaimed:
    """Watches one Redis; call give_back() every few seconds."""

    def __init__(self, app: Celery, client: redis.Redis, *, after_s: float = GIVE_BACK_AFTER_S) -> None:
        self._app, self._redis, self._after_s = app, client, after_s
        self._since_s: dict[str, float] = {}  #: when each message was first seen without an owner

    def give_back(self) -> int:
        """Put what nobody has claimed for a while back into its queue, marked as delivered before; returns how many."""
        tags = self._ownerless()
        if tags:
            log.warning("%d messages of workers that are gone go back to their queues", len(tags))
            with self._app.connection_for_write() as connection:
                for tag in tags:
                    connection.default_channel.qos.restore_by_tag(tag)
        return len(tags)

    def forget(self) -> None:
        """Start to watch anew: for a while nobody could say what he has in hand."""
        self._since_s = {}

    def _ownerless(self) -> list[str]:
        unacked = [str(tag) for tag in self._redis.hkeys(UNACKED_KEY)]
        claimed = held(self._redis)  # read after the messages: one that was just taken is younger than a beat
        now_s = time.monotonic()
        self._since_s = {tag: self._since_s.get(tag, now_s) for tag in unacked if tag not in claimed}
        return [tag for tag, since_s in self._since_s.items() if now_s - since_s >= self._after_s]
