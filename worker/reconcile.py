"""Keeps promises that Redis and Celery do not: sends delayed work when due, what a dead worker held, and what was lost.

Called by: worker.app, in the writer process. Must not import: torch, Flask.
kombu pops a message and records it as unacknowledged in a second command; a kill between the two loses it (12 kills
lost 6 of 12,000). The job's record survives: one leader looks for a message of every open run, and sends what has none.
Example: `Reconciler(crew, client).start()`
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator

import redis

from contract.broker import UNACKED_KEY, all_queues
from contract.errors import BrokerUnavailable, UnknownJob
from contract.finetune import FinetuneRecords
from contract.jobs import PredictJob
from contract.leases import Lease, is_held
from contract.rounds import Rounds
from worker.tasks import Crew
from worker.unclaimed import Unclaimed

log = logging.getLogger(__name__)

LEADER = "leader"  #: the lease
LEADER_TTL_S = 10.0
PUMP_EVERY_S = 0.5
GIVE_BACK_EVERY_S = 3.0
COMPARE_EVERY_S = 10.0
MOST_OF_TIME = 0.05  #: share of a core, and of Redis, that comparing may take however many messages wait
MISSING_FOR_S = 10.0  #: a record may be ahead of its message for as long as a send takes
SCAN_CHUNK = 1000
SEND_CHUNK = 500

# The id among a message's headers; a quote within its body is escaped. Parsing 100,000 messages takes ten times longer.
_MESSAGE_ID = re.compile(r'"headers": ?{[^{}]*?"id": ?"([^"]*)"')


class Reconciler:
    """A thread that does its rounds while it is the leader; any number of processes may run one."""

    def __init__(self, crew: Crew, client: redis.Redis, *, missing_for_s: float = MISSING_FOR_S) -> None:
        self._crew = crew
        self._missing_for_s = missing_for_s
        self._redis = client
        self._finetunes = FinetuneRecords(client)
        self._lease = Lease(client, LEADER, LEADER_TTL_S)
        self._unclaimed = Unclaimed(crew.app, client)
        self._give_back_at_s = self._compare_at_s = 0.0
        self._rounds = Rounds("reconcile", self._try, every_s=PUMP_EVERY_S)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()
        self._lease.release()

    def _try(self) -> None:
        try:
            if self._lead():
                self._round()
        except (redis.RedisError, BrokerUnavailable) as error:
            log.warning("Redis does not answer (%s); trying again", type(error).__name__)
            self._unclaimed.forget()  # nobody could say what he has in hand
        except Exception:  # a leader that stops would leave everybody waiting
            log.exception("a round of the reconciler failed; trying again")

    def _lead(self) -> bool:
        if self._lease.renew():
            return True
        if self._lease.acquire():
            log.info("this process now sends delayed and lost messages")
            return True
        return False

    def _round(self) -> None:
        self.send_due()
        now_s = time.monotonic()
        if now_s >= self._give_back_at_s:
            self._unclaimed.give_back()
            self._give_back_at_s = now_s + GIVE_BACK_EVERY_S
        if now_s >= self._compare_at_s:
            self.send_missing()
            self.send_abandoned()
            ended_s = time.monotonic()
            self._compare_at_s = ended_s + max(COMPARE_EVERY_S, (ended_s - now_s) / MOST_OF_TIME)

    def send_due(self) -> int:
        """Send delayed jobs whose time has come; returns how many."""
        due = self._crew.delayed.due()
        if due:
            self._crew.send(*[job for _, job in due])
            self._crew.delayed.drop([token for token, _ in due])
        return len(due)

    def send_missing(self) -> int:
        """Send again the open runs that no message speaks for any more; returns how many.

        A message that moves while we look may be missed. Then there are two of one run, of which only one starts.
        """
        untouched = self._crew.records.open_runs(untouched_for_s=self._missing_for_s)
        present = self._present() if untouched else set()
        lost = [run for run in untouched if run not in present]
        sent = 0
        for start in range(0, len(lost), SEND_CHUNK):
            again = [job for run in lost[start : start + SEND_CHUNK] if (job := self._requeue(run))]
            self._crew.send(*again)
            sent += len(again)
        return sent

    def send_abandoned(self) -> int:
        """Send fine-tunes again whose trainer died, or whose message was lost; returns how many."""
        quiet = [str(record["id"]) for record in self._finetunes.open_jobs(untouched_for_s=self._missing_for_s)]
        known = {name.rpartition(".")[0] or name for name in self._present()} if quiet else set()
        abandoned = [job_id for job_id in quiet if job_id not in known and not is_held(self._redis, job_id)]
        for job_id in abandoned:
            log.warning("nobody works on fine-tune %s any more; sent again", job_id)
            self._crew.send(self._finetunes.stored_job(job_id))
        return len(abandoned)

    def _requeue(self, open_run: str) -> PredictJob | None:
        """The job to send again; None where it is over, or nobody waits for it any more."""
        job_id, _, run = open_run.rpartition(".")
        try:
            job = self._crew.records.stored_job(job_id)
        except UnknownJob:
            return None
        if job.run != run:
            return None
        if job.expires_at_s is not None and job.expires_at_s < time.time():
            self._crew.records.cancel(job.id, job.run, job.project_id, "nobody waits for it any more")
            return None
        if not self._crew.records.requeue(job):
            return None
        log.warning("the message of job %s was lost; sent again", job_id)
        return job

    def _present(self) -> set[str]:
        """Runs that a message speaks for: one that waits, one that a worker holds, one that is delayed."""
        return {name.removeprefix("w.") for name in self._message_ids()} | {
            name.removeprefix("w.") for name in self._crew.delayed.ids()
        }

    def _message_ids(self) -> Iterator[str]:
        """Messages leave queues from the right, so reading from the left misses none; then those in hand."""
        for queue in all_queues(self._crew.shards):
            for start in range(0, int(self._redis.llen(queue)), SCAN_CHUNK):
                yield from _ids(self._redis.lrange(queue, start, start + SCAN_CHUNK - 1))
        yield from _ids(self._redis.hvals(UNACKED_KEY))


def _ids(messages: Iterable[object]) -> Iterator[str]:
    """Message ids are `<job id>.<run>`, with `w.` before write-backs (contract.envelopes)."""
    for message in messages:
        if found := _MESSAGE_ID.search(str(message)):
            yield found[1]
