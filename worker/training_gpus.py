"""GPUs for what a fine-tune computes: leased before torch starts, waited for where everybody sees it, freed at the end.

Called by: worker.stages, in the process of one job. Must not import: torch, which would start CUDA.
A trainer idles most of the time, and an export takes no GPU: only training and measuring hold one.
Example: `with hold_gpus(client, settings, job.id, 2, watch, gpus=list_gpus): train(...)`
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import redis

from contract.settings import Settings
from worker.gpu_lease import lease_gpus_for_training
from worker.gpus import Gpu

log = logging.getLogger(__name__)

WAITING = "waiting for a GPU"  #: as a stage of the job's record


class Watch(Protocol):
    """The job that the GPUs are for."""

    stopping: threading.Event  #: set from a thread where another process has one of the GPUs: look_for_end() raises

    def report(self, **fields: str | int | float) -> None:
        """Say it in the job's record. Raises JobCancelled where the job is over."""

    def look_for_end(self) -> None:
        """Raises JobCancelled, or TrainerStopping."""


@contextmanager
def hold_gpus(client: redis.Redis, settings: Settings, job_id: str, count: int, watch: Watch, *,
              gpus: Callable[[], Sequence[Gpu]]) -> Iterator[None]:  # fmt: skip
    """Hold `count` GPUs while the block runs; none where there is nothing to lease, as on a CPU.

    CUDA_VISIBLE_DEVICES is read as CUDA starts: do not compute on a GPU before. Raises what `watch` raises while it
    waits, SettingsError as lease_gpus_for_training() does.
    """
    said: set[str] = set()

    def wait(reason: str) -> None:
        try:
            watch.look_for_end()
            if reason not in said:
                watch.report(stage=WAITING)
                log.warning("fine-tune %s is waiting for a GPU: %s", job_id, reason)
                said.add(reason)
        except redis.RedisError as error:  # the next look may reach it
            log.warning("Redis does not answer (%s) while fine-tune %s waits", type(error).__name__, job_id)

    lease = lease_gpus_for_training(client, settings, job_id, count, wait=wait, lost=watch.stopping.set, gpus=gpus)
    if lease is None:
        yield
        return
    try:
        watch.report(gpus=lease.uuids)
        yield
    finally:
        lease.release()
