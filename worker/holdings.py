"""Which messages this process has in hand: all that Celery has taken and not yet acknowledged, of every consumer.

Called by: worker.app (says it with each heartbeat). Must not import: anything of ours.
Example: `Heartbeat(client, name, facts, holds=delivery_tags)`
"""

from __future__ import annotations

from celery.worker import state

MOST_LOOKS = 100


def delivery_tags() -> list[str]:
    """Under these names kombu keeps the messages in its hash `unacked`."""
    for _ in range(MOST_LOOKS):
        try:
            return [request.message.delivery_tag for request in state.reserved_requests]
        except RuntimeError:  # another thread took or finished one while we looked: look again
            continue
    raise RuntimeError("the messages in hand change too fast to be listed")
