"""A trainer for one job, in which someone dies as a stage begins: kill -9, nothing is cleaned up.

Called by: tests/services/trainers.py as `python -m tests.fakes.dying_trainer <job id> <who> <stages>`, with
settings in the environment; who is "trainer", "process" (the one that runs the stages) or "nobody". The trainer starts
this file again for the stages, with the job's id last. All but the death is real, and GPUs where SIMULATED_GPUS, with
commas between, names some; then what CUDA would see as a stage begins is kept in Redis.
"""

import dataclasses
import os
import signal
import sys
import threading

from contract.broker import connect_redis
from contract.finetune import FinetuneRecords
from contract.settings import read_settings
from worker.finetune import Finetuner
from worker.finetune_process import main as run_process
from worker.gpu_lease import VISIBLE
from worker.gpus import Gpu, list_gpus
from worker.stages import Tools

SIMULATED = os.environ.get("SIMULATED_GPUS", "")


def simulated_gpus():
    return [Gpu(uuid, "simulated", 2**30, 2**30) for uuid in SIMULATED.split(",")]


class DyingRecords(FinetuneRecords):
    """Says that a stage begins, and then somebody is gone; each fatal stage kills once, "always:train" ever again."""

    def __init__(self, client, who, stages):
        super().__init__(client)
        self._client, self._who, self._stages = client, who, stages.split(",")

    def progress(self, job_id, **fields):
        told = super().progress(job_id, **fields)
        stage = fields.get("stage")
        if stage:
            self._client.set(f"test:visible:{job_id}:{stage}", os.environ.get(VISIBLE, ""))
        if f"always:{stage}" in self._stages or (
            stage in self._stages and self._client.set(f"test:died:{job_id}:{stage}", 1, nx=True)
        ):
            os.kill(os.getppid() if self._who == "trainer" else os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # a trainer takes the process with it
        return told


def run_trainer(job_id, who, stages):
    settings = read_settings()
    client = connect_redis(settings)
    command = (sys.executable, "-m", "tests.fakes.dying_trainer", "stages", who, stages)
    trainer = Finetuner(settings, client, f"trainer-{os.getpid()}@test", threading.Event(), 6.0, command)
    print(trainer.run(FinetuneRecords(client).stored_job(job_id)))
    assert VISIBLE not in os.environ, "a trainer must not hold a GPU, only the process of a job"


def run_stages(who, stages, job_id):
    def open_tools(settings):
        tools = Tools.open(settings)
        records = DyingRecords(connect_redis(settings), who, stages)
        return dataclasses.replace(tools, records=records, gpus=simulated_gpus if SIMULATED else list_gpus)

    return run_process(job_id, open_tools)


if __name__ == "__main__":
    if sys.argv[1] == "stages":
        sys.exit(run_stages(*sys.argv[2:]))
    run_trainer(*sys.argv[1:])
