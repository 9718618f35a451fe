"""One GPU a worker: leases a free one through Redis before CUDA starts, so that `--scale worker=4` uses four GPUs.

Called by: worker.app, at the start of a prediction worker. Must not import: torch, which would start CUDA.
Containers have their own host names and all see GPU 0, so GPUs are known by their UUID. A crash frees one after TTL_S.
Example: `lease = lease_gpu(client, settings)`; then CUDA_VISIBLE_DEVICES names the leased GPU, and cuda:0 is it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis

from contract.errors import SettingsError
from contract.leases import TTL_S, Lease, is_held
from contract.settings import Settings
from worker.gpus import Gpu, list_gpus

log = logging.getLogger(__name__)

MOST_SHARERS = 16  #: workers on one GPU
LOOK_AGAIN_S = 1.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
ALL_TAKEN = "every GPU is leased by another worker: start fewer workers, or set GPU_SHARING=share, or wait"


class Seat(NamedTuple):
    """A place on a GPU: number 0 is its first worker, higher ones share it."""

    gpu: Gpu
    number: int

    @property
    def key(self) -> str:
        return f"gpu:{self.gpu.uuid}:{self.number}"


class GpuLease:
    """A held seat. It is renewed until release(); `lost()` is called once if another worker has it after all."""

    def __init__(self, seat: Seat, lease: Lease, lost: Callable[[], None], ttl_s: float = TTL_S) -> None:
        self.gpu = seat.gpu
        self._lease, self._lost, self._ttl_s = lease, lost, ttl_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gpu-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the next worker have the GPU at once."""
        self._end.set()
        self._thread.join()
        self._lease.release()

    def _keep(self) -> None:
        while not self._end.wait(self._ttl_s / 3):
            try:
                # after a pause of Redis it may have lapsed without anyone taking it
                if not self._lease.renew() and not self._lease.acquire():
                    log.error("GPU %s is leased by another worker now; this one ends", self.gpu.uuid)
                    self._lost()
                    return
            except redis.RedisError as error:
                log.warning("the lease of GPU %s could not be renewed: %s", self.gpu.uuid, type(error).__name__)


def lease_gpu(client: redis.Redis, settings: Settings, *, lost: Callable[[], None], ttl_s: float = TTL_S,
              gpus: Callable[[], Sequence[Gpu]] = list_gpus) -> GpuLease | None:  # fmt: skip
    """Lease a GPU and make it the only one that CUDA will see.

    None where there is nothing to lease: DEVICE is the CPU or names a GPU (cuda:1), CUDA_VISIBLE_DEVICES is set, or no
    GPU is there. With GPU_SHARING=wait it returns when one is free; while Redis does not answer, it waits too.

    Raises:
        SettingsError: all are taken and GPU_SHARING=refuse.
    """
    if settings.device not in ("auto", "cuda") or VISIBLE in os.environ or not gpus():
        return None
    seat, lease = _take_seat(client, settings, gpus, ttl_s)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ[VISIBLE] = seat.gpu.uuid
    log.info("leased GPU %s (%s), as its worker %d", seat.gpu.uuid, seat.gpu.name, seat.number + 1)
    return GpuLease(seat, lease, lost, ttl_s)


def _take_seat(client: redis.Redis, settings: Settings, gpus: Callable[[], Sequence[Gpu]],
               ttl_s: float) -> tuple[Seat, Lease]:  # fmt: skip
    pause, said = threading.Event(), set[str]()
    while True:
        try:
            seats = _seats(client, gpus(), share=settings.gpu_sharing == "share")
            if seats:
                lease = Lease(client, seats[0].key, ttl_s)
                if lease.acquire():
                    return seats[0], lease
                continue  # somebody was faster: look anew, so that sharers spread evenly
            reason = "every GPU is leased by another worker (GPU_SHARING=wait)"
        except redis.RedisError as error:  # as patient as Celery is
            reason = f"Redis does not answer ({type(error).__name__})"
        else:
            if settings.gpu_sharing != "wait":
                raise SettingsError(f"GPU_SHARING: {ALL_TAKEN}")
        if reason not in said:
            log.warning("waiting for a GPU: %s", reason)
        said.add(reason)
        pause.wait(LOOK_AGAIN_S)


def _seats(client: redis.Redis, gpus: Sequence[Gpu], *, share: bool) -> list[Seat]:
    """Free seats, best first: a GPU of one's own, then where most memory is left for one more."""
    seats = []
    for gpu in gpus:
        taken = [is_held(client, Seat(gpu, number).key) for number in range(MOST_SHARERS if share else 1)]
        if not all(taken):
            seats.append((-gpu.free_bytes / (sum(taken) + 1), Seat(gpu, taken.index(False)), any(taken)))
    return [seat for _, seat, _ in sorted(seats, key=lambda found: (found[2], found[0], found[1].gpu.uuid))]
