"""How long each queue is, and how long its oldest message has waited.

Called by: backend.ui, backend.gauges. Must not import: Celery, Flask.
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


_MOMENTS = ("enqueued_at_s", "requested_at_s")  #: of contract.jobs: since when, however often it was sent


def _age_s(message: object, now_s: float) -> float | None:
    """What the job says; the time of sending for jobs that say nothing (contract.envelopes)."""
    if message is None:
        return None
    parts = json.loads(str(message))
    job = json.loads(parts["body"])[1]["job"] if "body" in parts else {}
    moments = [*(job[name] for name in _MOMENTS if name in job), parts["headers"].get("sent_at_s")]
    return None if moments[0] is None else max(0.0, now_s - float(moments[0]))
