"""Messages that Celery would drop with a line in the log: unknown task names, undecodable bodies. They are buried.

Called by: worker.app. Must not import: torch, Flask.
A newer API beside an older worker sends names that the worker does not know yet; after the update they are replayed.
Example: `keep_strays(app, records.dead)` before the worker starts
"""

from __future__ import annotations

import logging

from celery import Celery
from celery.signals import task_rejected, task_unknown
from celery.worker.consumer import Consumer
from kombu import Message

from contract.dead_letters import DeadLetters
from contract.errors import BadMessage

log = logging.getLogger(__name__)


class KeepingConsumer(Consumer):
    """Celery's, which tells of a message that cannot be decoded, as it does of the others, before it drops it."""

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        task_rejected.send(sender=self, message=message, exc=exc)
        super().on_decode_error(message, exc)


def keep_strays(app: Celery, dead: DeadLetters) -> None:
    """Bury what workers of this app cannot understand."""
    app.conf.worker_consumer = KeepingConsumer

    def unknown(message: Message, name: str, **_: object) -> None:
        _bury(dead, name, message, BadMessage(f"no task is called {name}; a newer release may know it"))

    def broken(message: Message, exc: Exception | None, **_: object) -> None:
        why = type(exc).__name__ if exc else "it is no task"
        _bury(dead, str(message.headers.get("task", "")), message, BadMessage(f"cannot be read: {why}"))

    task_unknown.connect(unknown, weak=False)
    task_rejected.connect(broken, weak=False)


def _bury(dead: DeadLetters, name: str, message: Message, error: BadMessage) -> None:
    log.error("message %s is kept as a dead letter: %s", message.headers.get("id", "without id"), error.message)
    dead.bury_stray(name, _content(message), error)


def _content(message: Message) -> object:
    """Keyword argument `job` where it can be read, as replay() needs it; else the body as it came."""
    try:
        return message.payload[1]["job"]
    except Exception:  # anything at all may be wrong with it, which is why it is here
        body = message.body
        return body.decode(errors="replace") if isinstance(body, bytes) else str(body)
