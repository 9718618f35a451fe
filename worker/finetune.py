"""One fine-tune at a time, each in a process of its own, which can be ended whatever it is doing.

Called by: worker.tasks, in the trainer process. Must not import: torch, mmdet.
The trainer holds the job's lease and watches; the stages are in worker.stages. What they hold in memory, or hang on,
is gone with their process, and the trainer is ready for the next job.
Example: `Finetuner(settings, client, name, stopping).run(job)`
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from contract.errors import GroundcrewError
from contract.finetune import FinetuneJob, FinetuneRecords, Start
from contract.leases import TTL_S, Lease
from contract.settings import Settings, to_environment
from worker.finetune_process import LEFT_EXIT_CODE
from worker.gpu_seats import stand_up
from worker.stages import work_directory

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.finetune_process")  #: followed by the job's id
LOOK_EVERY_S = 0.2
GRACE_S = 7.0  #: a stage looks at the cancel flag between two steps; one that takes longer is ended. 10 s are promised
MOST_STARTS = 3  #: of one trainer, for a process that dies: each goes on where the last one stopped


class TrainingKilled(GroundcrewError):
    """The process of a fine-tune died again and again."""

    code = "training_killed"


@dataclass(frozen=True)
class Finetuner:
    """Runs fine-tunes, one after the other."""

    settings: Settings
    client: redis.Redis
    name: str  #: of this trainer, as records show it
    stopping: threading.Event  #: set on SIGTERM
    lease_ttl_s: float = TTL_S
    command: Sequence[str] = COMMAND

    def run(self, job: FinetuneJob) -> Start:
        """Do the job, unless another trainer has it or it is over. `busy`: send it again later.

        Its record says how it ended; nothing is raised but redis.RedisError.
        """
        lease = Lease(self.client, job.id, self.lease_ttl_s)
        if not lease.acquire():
            return "over"  # whoever holds it does it; after a death the reconciler sends it again
        with lease.kept() as lost:
            started = FinetuneRecords(self.client).start(job, self.name)
            if started == "started":
                _Watch(self, job, lost).run()
            return started


class _Watch:
    """One job's process, from its start to its end."""

    def __init__(self, trainer: Finetuner, job: FinetuneJob, lost: threading.Event) -> None:
        self._trainer, self._job, self._lost = trainer, job, lost
        self._records = FinetuneRecords(trainer.client)

    def run(self) -> None:
        for _ in range(MOST_STARTS):
            code = self._run_once()
            if self._records.is_cancelled(self._job.id):
                self._clean_up(lambda: self._records.cancelled(self._job.id, "cancelled while it ran"))
                return
            if code in (0, LEFT_EXIT_CODE) or self._is_left():
                return
            log.warning("the process of fine-tune %s ended with code %d", self._job.id, code)
        self._clean_up(lambda: self._records.fail(self._job.id, _explain(code)))

    def _run_once(self) -> int:
        """The exit code; negative is the signal that killed it."""
        environment = {**os.environ, **to_environment(self._trainer.settings)}
        # a session of its own: its whole group can be killed, and Ctrl-C does not reach it; stdin: see worker.orphans
        with subprocess.Popen(
            [*self._trainer.command, self._job.id], stdin=subprocess.PIPE, env=environment, start_new_session=True
        ) as process:
            try:
                return self._follow(process)
            finally:
                _kill_group(process)

    def _follow(self, process: subprocess.Popen[bytes]) -> int:
        told_s: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_EVERY_S)
            if self._lost.is_set():  # another trainer may have begun already
                _kill_group(process)
            elif told_s is not None and time.monotonic() - told_s > GRACE_S:
                log.warning("fine-tune %s does not stop by itself, so its process is killed", self._job.id)
                _kill_group(process)
            elif told_s is None and self._has_to_stop(process):
                told_s = time.monotonic()

    def _has_to_stop(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the process was told to stop: by us, or by the flag in the job's record, which it reads itself."""
        if self._trainer.stopping.is_set():
            process.terminate()  # it alone: processes that load images are ended by it
            return True
        try:
            return self._records.is_cancelled(self._job.id)
        except redis.RedisError as error:  # nobody can have cancelled it meanwhile
            log.warning("the record of fine-tune %s cannot be read: %s", self._job.id, error)
            return False

    def _is_left(self) -> bool:
        return self._trainer.stopping.is_set() or self._lost.is_set()

    def _clean_up(self, end: Callable[[], bool]) -> None:
        """Say how the job ended, and drop what its process left."""
        if not self._lost.is_set():
            stand_up(self._trainer.client, self._gpus(), self._job.id)  # a process that was killed freed nothing
            end()
            shutil.rmtree(work_directory(self._trainer.settings, self._job.id), ignore_errors=True)

    def _gpus(self) -> list[str]:
        """UUIDs of those that its process has leased."""
        known = str(self._records.get(self._job.id).get("gpus", ""))
        return known.split(",") if known else []


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _explain(code: int) -> GroundcrewError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return TrainingKilled(
        f"the training process {how}, {MOST_STARTS} times: if this machine is short of memory, start again with "
        "--set batch_size=1, or with fewer workers; the trainer's log has the details"
    )
