"""Keeps promises that Redis and Celery do not: sends delayed work when it is due, and lost messages again.

Called by: worker.app, in the writer process. Must not import: torch, Flask.
kombu pops a message and records it as unacknowledged in a second command; a kill between the two loses
it (12 kills lost 6 of 12,000). The job's record survives: one leader compares records with messages, and sends again.
Example: `Reconciler(crew, client).start()`
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator

import redis

from contract.broker import all_queues, queue_depths
from contract.errors import BrokerUnavailable, UnknownJob
from contract.finetune import FinetuneRecords
from contract.jobs import FINETUNE_QUEUE
from contract.leases import is_held
from worker.tasks import Crew

log = logging.getLogger(__name__)

LEADER_KEY = "gc:leader"
LEADER_TTL_S = 10
PUMP_EVERY_S = 0.5
COMPARE_EVERY_S = 10.0
MISSING_FOR_S = 10.0  #: a record may be ahead of its message for as long as a send takes
UNACKED_KEY = "unacked"  #: kombu's hash of messages that some worker holds
SCAN_CHUNK = 1000


class Reconciler:
    """A thread that does its rounds while it is the leader; any number of processes may run one."""

    def __init__(self, crew: Crew, client: redis.Redis, *, missing_for_s: float = MISSING_FOR_S) -> None:
        self._crew = crew
        self._missing_for_s = missing_for_s
        self._redis = client
        self._finetunes = FinetuneRecords(client)
        self._me = secrets.token_hex(8)
        self._stop = threading.Event()
        self._since_compare_s = 0.0
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_leader():
            self._redis.delete(LEADER_KEY)

    def _loop(self) -> None:
        while not self._stop.wait(PUMP_EVERY_S):
            try:
                if self._lead():
                    self._round()
            except (redis.RedisError, BrokerUnavailable) as error:
                log.warning("Redis does not answer (%s); trying again", type(error).__name__)

    def _lead(self) -> bool:
        if self._redis.set(LEADER_KEY, self._me, nx=True, ex=LEADER_TTL_S):
            log.info("this process now sends delayed and lost messages")
            return True
        return self._is_leader() and bool(self._redis.expire(LEADER_KEY, LEADER_TTL_S))

    def _is_leader(self) -> bool:
        return self._redis.get(LEADER_KEY) == self._me

    def _round(self) -> None:
        self.send_due()
        self._since_compare_s += PUMP_EVERY_S
        if self._since_compare_s >= COMPARE_EVERY_S:
            self._since_compare_s = 0.0
            self.send_missing()
            self.send_abandoned()

    def send_due(self) -> int:
        """Send delayed jobs whose time has come; returns how many."""
        due = self._crew.delayed.due()
        if due:
            self._crew.send(*[job for _, job in due])
            self._crew.delayed.drop([token for token, _ in due])
        return len(due)

    def send_missing(self) -> int:
        """Send again the open jobs that no message speaks for any more; returns how many."""
        if self._messages() >= self._crew.records.open_count():
            return 0
        known = set(self._known_ids())
        sent = 0
        for job_id in self._crew.records.open_jobs(untouched_for_s=self._missing_for_s, limit=100_000):
            if job_id not in known:
                sent += self._send_again(job_id)
        return sent

    def send_abandoned(self) -> int:
        """Send fine-tunes again whose trainer died, or whose message was lost; returns how many."""
        quiet = [str(record["id"]) for record in self._finetunes.open_jobs(untouched_for_s=self._missing_for_s)]
        known = set(self._known_ids()) if quiet else set()
        abandoned = [job_id for job_id in quiet if job_id not in known and not is_held(self._redis, job_id)]
        for job_id in abandoned:
            log.warning("nobody works on fine-tune %s any more; sent again", job_id)
            self._crew.send(self._finetunes.stored_job(job_id))
        return len(abandoned)

    def _send_again(self, job_id: str) -> int:
        try:
            job = self._crew.records.stored_job(job_id)
        except UnknownJob:
            return 0
        if job.expires_at_s is not None and job.expires_at_s < time.time():
            self._crew.records.cancel(job.id, job.run, job.project_id, "nobody waits for it any more")
            return 0
        if not self._crew.records.requeue(job):
            return 0
        log.warning("the message of job %s was lost; sent again", job_id)
        self._crew.send(job)
        return 1

    def _messages(self) -> int:
        """Messages that may speak for an open job: waiting, held by a worker, or delayed. Fine-tunes do not count."""
        depths = queue_depths(self._redis, self._crew.shards)
        waiting = sum(depth for queue, depth in depths.items() if queue != FINETUNE_QUEUE)
        return waiting + int(self._redis.hlen(UNACKED_KEY)) + self._crew.delayed.count()

    def _known_ids(self) -> Iterator[str]:
        """Job ids of all messages. Messages leave queues from the right, so reading from the left misses none."""
        for queue in all_queues(self._crew.shards):
            for start in range(0, int(self._redis.llen(queue)), SCAN_CHUNK):
                for raw in self._redis.lrange(queue, start, start + SCAN_CHUNK - 1):
                    yield _message_job_id(json.loads(raw))
        for raw in self._redis.hvals(UNACKED_KEY):
            yield _message_job_id(json.loads(raw)[0])
        for job in self._crew.delayed.jobs():
            yield getattr(job, "id", "")


def _message_job_id(message: dict[str, dict[str, str]]) -> str:
    """Message ids are `<job id>.<run>`, with `w.` before write-backs (contract.broker)."""
    return message["headers"]["id"].removeprefix("w.").rpartition(".")[0]
