"""A trainer that is killed as it enters a stage: `python -m tests.fakes.dying_trainer <stage or none> <job id>`.

Called by: tests/services/test_finetune_kills.py, with settings in the environment. All but the death is real.
"""

import os
import signal
import sys
import threading
from dataclasses import dataclass

from contract.broker import connect_redis
from contract.finetune import FinetuneRecords
from contract.registry import Registry
from contract.settings import read_settings
from contract.status import JobRecords
from worker.finetune import Finetuner
from worker.labelstudio import LabelStudio


class DyingRecords(FinetuneRecords):
    """Says that a stage begins, and then the process is gone: kill -9, nothing is cleaned up."""

    fatal_stage = ""

    def progress(self, job_id, **fields):
        told = super().progress(job_id, **fields)
        if fields.get("stage") == self.fatal_stage:
            os.kill(os.getpid(), signal.SIGKILL)
        return told


@dataclass(frozen=True)
class DyingFinetuner(Finetuner):
    @property
    def records(self):
        return DyingRecords(self.client)


def main(stage, job_id):
    settings = read_settings()
    DyingRecords.fatal_stage = stage
    client = connect_redis(settings)
    jobs = JobRecords(client, failed_memory_s=0)
    trainer = DyingFinetuner(settings, client, LabelStudio(settings), Registry(settings), f"trainer-{os.getpid()}@test",
                             threading.Event(), jobs, send=print, lease_ttl_s=6.0)  # fmt: skip
    print(trainer.run(trainer.records.stored_job(job_id)))


if __name__ == "__main__":
    main(*sys.argv[1:])
