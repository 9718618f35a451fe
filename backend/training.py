"""What starts a fine-tune: the "Start training" button, `groundcrew finetune`, or enough new annotations.

Called by: backend.routes, groundcrew.finetune_command. Must not import: Flask, torch, worker.
Only a record and a message are made here, within milliseconds; a trainer does the rest.
Example: `Training(settings, client, send).start(3, "label-studio")` -> ("ft-3-5c1d09ab", True)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import redis

from contract.delayed import Delayed
from contract.finetune import FinetuneJob, FinetuneRecords, new_finetune
from contract.jobs import Requester
from contract.settings import Settings

MOST_PAUSES = 10  #: a team that never pauses gets its fine-tune after so many times FINETUNE_DEBOUNCE_S


class Training:
    """Requests fine-tunes over one Redis. Methods may raise BrokerUnavailable, redis.RedisError."""

    def __init__(self, settings: Settings, client: redis.Redis, send: Callable[[FinetuneJob], None]) -> None:
        self._after = settings.finetune_after
        self._debounce_s = settings.finetune_debounce_s
        self._delayed = Delayed(client)
        self._send = send
        self.records = FinetuneRecords(client)

    def start(self, project_id: int, requested_by: Requester, *, base: str = "",
              options: Mapping[str, str | int | float | bool] | None = None) -> tuple[str, bool]:  # fmt: skip
        """(id, True) for a new fine-tune; (id, False) where one waits already, which will see the same annotations."""
        job = new_finetune(project_id, requested_by, base=base, options=options)
        job_id, created = self.records.request(job)
        if created:
            self._send(job)
        else:
            self._hurry(self.records.stored_job(job_id))
        return job_id, created

    def annotated(self, project_id: int, count: int) -> str:
        """Count annotations; once there are FINETUNE_AFTER, a fine-tune starts when annotating pauses.

        Returns what came of it, in words.
        """
        if not self._after or not count:
            return "recorded"
        seen = self.records.annotations_seen(project_id, count)
        if waiting := self.records.waiting(project_id):
            self._put_off(self.records.stored_job(waiting))
            return f"recorded; fine-tune {waiting} is waiting"
        if seen < self._after:
            return f"recorded; annotations until a fine-tune starts: {self._after - seen}"
        return f"recorded; fine-tune {self._request_later(project_id)} starts when annotating pauses"

    def _request_later(self, project_id: int) -> str:
        job = new_finetune(project_id, "auto")
        job_id, created = self.records.request(job)
        if created:
            self._delayed.add(job, after_s=self._debounce_s)
        return job_id

    def _put_off(self, job: FinetuneJob) -> None:
        """Every annotation makes the pause begin anew, within bounds."""
        if job.requested_by == "auto":
            latest_s = job.requested_at_s + MOST_PAUSES * self._debounce_s
            self._delayed.put_off(job, until_s=min(time.time() + self._debounce_s, latest_s))

    def _hurry(self, job: FinetuneJob) -> None:
        """Someone asks for a fine-tune that waits for a pause: it starts now."""
        if self._delayed.cancel(job):
            self._send(job)
