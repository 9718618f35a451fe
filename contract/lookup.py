"""Jobs by their id, whatever their kind: what is known of one, and cancelling it.

Called by: backend.routes, groundcrew.jobs. Must not import: Celery, Flask.
Example: `JobLookup(client, failed_memory_s=600).cancel("ft-3-5c1d09ab")["state"] == "cancelled"`
"""

from __future__ import annotations

import redis

from contract.eta import job_eta_s
from contract.finetune import FinetuneRecords, is_finetune
from contract.results import Results
from contract.status import OPEN, JobRecords


class JobLookup:
    """Predict jobs and fine-tunes of one Redis. Methods raise redis.RedisError when it does not answer."""

    def __init__(self, client: redis.Redis, *, failed_memory_s: int) -> None:
        self.predicts = JobRecords(client, failed_memory_s=failed_memory_s)
        self.finetunes = FinetuneRecords(client)
        self._results = Results(client)

    def get(self, job_id: str) -> dict[str, object]:
        """The record as JSON types. Raises UnknownJob."""
        if is_finetune(job_id):
            return self.finetunes.get(job_id)
        record = self.predicts.get(job_id)
        return {**record, "eta_s": job_eta_s(self.predicts, job_id)} if record["state"] in OPEN else record

    def cancel(self, job_id: str) -> dict[str, object]:
        """Cancel what waits; tell a running fine-tune to stop; leave the rest alone. Returns the record after that.

        A predict job that runs takes a second and is not interrupted. Raises UnknownJob.
        """
        if is_finetune(job_id):
            self.finetunes.cancel_request(job_id)
        else:
            job = self.predicts.stored_job(job_id)
            if self.predicts.cancel_waiting(job, "cancelled by hand"):
                self._results.put_failure(job)
        return self.get(job_id)
