"""What was given up: kept with its reason, to be sent again or dropped by hand.

Called by: worker.tasks, worker.strays (bury), backend.routes, groundcrew.dead_command (look, replay, drop).
Must not import: Celery, Flask. Redis has no dead-letter list of its own, and Celery drops what it does not understand.
Example: `DeadLetters(client).bury(job, Poison(), attempts=3)`
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence

import redis
from pydantic import BaseModel, ConfigDict

from contract.delayed import dump_message
from contract.envelopes import message_id
from contract.errors import GroundcrewError, UnknownJob
from contract.jobs import Job
from contract.redact import redact

LETTERS = "gc:dead"  #: hash: id -> letter
TIMES = "gc:dead:at"  #: sorted set of ids by the Unix time of their death
MOST_LETTERS = 100_000
LONGEST_MESSAGE = 1_000_000  #: characters kept of a message that nobody understands


class DeadLetter(BaseModel):
    """One message that was given up."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str  #: of its kind, such as groundcrew.predict
    code: str  #: of the error
    reason: str  #: one sentence
    attempts: int
    at_s: float  #: Unix time
    message: str  #: as contract.delayed.dump_message() writes it


class DeadLetters:
    """The dead letters of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def bury(self, job: Job, error: GroundcrewError, *, attempts: int) -> None:
        """Keep a job of ours; a second death of the same run replaces the first."""
        self._keep(message_id(job), job.name, dump_message(job), error, attempts)

    def bury_stray(self, name: str, content: object, error: GroundcrewError) -> None:
        """Keep a message that this release does not understand: its name, and what it says as JSON types."""
        message = json.dumps({"name": name, "job": content}, sort_keys=True, default=str)[:LONGEST_MESSAGE]
        self._keep(f"stray-{hashlib.sha256(message.encode()).hexdigest()[:12]}", name, message, error, attempts=1)

    def _keep(self, letter_id: str, name: str, message: str, error: GroundcrewError, attempts: int) -> None:
        letter = DeadLetter(
            id=letter_id, name=name, code=error.code, reason=redact(error.message), attempts=attempts, at_s=time.time(),
            message=message,
        )  # fmt: skip
        with self._redis.pipeline() as pipe:
            pipe.hset(LETTERS, letter_id, letter.model_dump_json())
            pipe.zadd(TIMES, {letter_id: letter.at_s})
            pipe.execute()
        self._limit()

    def _limit(self) -> None:
        over = self._redis.zrange(TIMES, 0, -1 - MOST_LETTERS) if self.count() > MOST_LETTERS else []
        self.drop([str(letter_id) for letter_id in over])

    def list(self, limit: int = MOST_LETTERS) -> list[DeadLetter]:
        """The newest first."""
        ids = [str(letter_id) for letter_id in self._redis.zrevrange(TIMES, 0, limit - 1)]
        found = self._redis.hmget(LETTERS, ids) if ids else []
        return [DeadLetter.model_validate_json(body) for body in found if body is not None]

    def get(self, letter_id: str) -> DeadLetter:
        """Raises UnknownJob."""
        body = self._redis.hget(LETTERS, letter_id)
        if body is None:
            raise UnknownJob(f"no dead letter {letter_id} is kept; `groundcrew jobs dead` lists them")
        return DeadLetter.model_validate_json(body)

    def drop(self, ids: Sequence[str]) -> int:
        """Forget letters; returns how many there were."""
        if not ids:
            return 0
        with self._redis.pipeline() as pipe:
            pipe.hdel(LETTERS, *ids)
            pipe.zrem(TIMES, *ids)
            return int(pipe.execute()[0])

    def count(self) -> int:
        return int(self._redis.zcard(TIMES))
