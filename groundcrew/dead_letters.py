"""`groundcrew jobs dead | replay | drop`: what was given up, with its reason, and what to do about it.

Called by: groundcrew.cli. Must not import: backend, worker.
Example: `replay_dead(settings, [], every=True)` -> {"replayed": [...], "refused": [...]}
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from contract.broker import connect_redis, make_celery, send
from contract.dead_letters import DeadLetter
from contract.errors import BadMessage, BrokerUnavailable, UnknownJob
from contract.replay import replay
from contract.settings import Settings
from contract.status import JobRecords

Json = dict[str, Any]


def list_dead(settings: Settings) -> Json:
    """All dead letters, the newest first. Raises BrokerUnavailable."""
    with _records(settings) as records:
        letters = records.dead.list()
    return {"dead": [letter.model_dump(exclude={"message"}) for letter in letters]}


def replay_dead(settings: Settings, ids: Sequence[str], *, every: bool = False) -> Json:
    """Send letters again, those named by their own id or their job's. Raises UnknownJob, BrokerUnavailable."""
    app = make_celery(settings, publish_only=True)
    replayed, refused = [], []
    with _records(settings) as records:
        for letter in _chosen(records, ids, every):
            try:
                replay(letter, records, lambda job: send(app, [job], shards=settings.queue_shards))
                replayed.append(letter.id)
            except BadMessage as error:
                refused.append({"id": letter.id, "reason": error.message})
    return {"replayed": replayed, "refused": refused}


def drop_dead(settings: Settings, ids: Sequence[str], *, every: bool = False) -> Json:
    """Forget letters. Raises UnknownJob, BrokerUnavailable."""
    with _records(settings) as records:
        chosen = [letter.id for letter in _chosen(records, ids, every)]
        records.dead.drop(chosen)
    return {"dropped": chosen}


def _chosen(records: JobRecords, ids: Sequence[str], every: bool) -> list[DeadLetter]:
    letters = records.dead.list()
    if every:
        return letters
    chosen = [letter for letter in letters if letter.id in ids or letter.id.rpartition(".")[0] in ids]
    if not chosen:
        raise UnknownJob(f"no dead letter {' or '.join(ids)} is kept; `groundcrew jobs dead` lists them")
    return chosen


@contextmanager
def _records(settings: Settings) -> Iterator[JobRecords]:
    try:
        with connect_redis(settings) as client:
            yield JobRecords(client, failed_memory_s=0)
    except redis.RedisError as error:
        raise BrokerUnavailable from error


def print_dead(found: Mapping[str, Any]) -> None:
    """What the functions above return, as a table or as sentences."""
    console = Console(highlight=False)
    if "dead" not in found:
        for done in ("replayed", "dropped"):
            if done in found:
                console.print(f"{done}: {len(found[done])}", markup=False)
        for row in found.get("refused", []):
            console.print(f"kept: {row['id']}: {row['reason']}", markup=False, soft_wrap=True)
        return
    table = Table("Letter", "When", "Tries", "Reason", title="Dead letters", title_justify="left")
    for row in found["dead"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at_s"]))
        reason = f"{row['code']}: {row['reason']}".replace("[", r"\[")
        table.add_row(row["id"].replace("[", r"\["), when, str(row["attempts"]), reason)
    console.print(table if found["dead"] else "No dead letters.")
