"""How long each queue is, and how long its oldest message has waited.

Called by: backend.ui. Must not import: Celery, Flask.
Example: `queue_facts(client, shards=8)[0].oldest_s` -> 12.5
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import redis

from contract.broker import all_queues


class QueueFacts(NamedTuple):
    """One queue."""

    name: str
    depth: int  #: waiting messages
    oldest_s: float | None  #: age of the one that leaves next; None: none waits, or it does not say


def queue_facts(client: redis.Redis, shards: int) -> list[QueueFacts]:
    """All queues in the order of contract.broker.all_queues(), in one round trip. Raises redis.RedisError."""
    names = all_queues(shards)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
            pipe.lindex(name, -1)  # messages enter on the left
        found = pipe.execute()
    now = time.time()
    return [QueueFacts(name, int(found[2 * at]), _age_s(found[2 * at + 1], now)) for at, name in enumerate(names)]


_MOMENTS = ("enqueued_at_s", "requested_at_s")  #: of contract.jobs; other messages wait too briefly to say


def _age_s(message: object, now_s: float) -> float | None:
    if message is None:
        return None
    job = json.loads(json.loads(str(message))["body"])[1]["job"]
    moments = [float(job[name]) for name in _MOMENTS if name in job]
    return max(0.0, now_s - moments[0]) if moments else None
