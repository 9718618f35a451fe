"""GPUs for workers and trainings, leased through Redis before CUDA starts: `--scale worker=4` uses four.

Called by: worker.app (at the start of a prediction worker), worker.training_gpus. Must not import: torch.
Containers have their own host names and all see GPU 0, so GPUs are known by their UUID. A crash frees one after TTL_S.
Example: `lease = lease_gpu(client, settings)`; then CUDA_VISIBLE_DEVICES names the leased GPU, and cuda:0 is it.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence

import redis

from contract.errors import SettingsError
from contract.leases import TTL_S, Lease
from contract.settings import Settings
from worker.gpu_seats import Guest, Place, find_places, sit_down
from worker.gpus import Gpu, list_gpus

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
ALL_TAKEN = "every GPU is leased by another worker: start fewer workers, or set GPU_SHARING=share, or wait"
TRAINING_REFUSED = ("the training finds {free} free of the {count} it needs: start it when fewer workers and trainings "
                    "run, or set GPU_SHARING=share, or wait")  # fmt: skip

Wait = Callable[[str], None]
"""Called with the reason each time that no GPU was to be had; raises to give up."""


class GpuLease:
    """Held seats on GPUs. They are renewed until release(); `lost()` is called once if another has any after all."""

    def __init__(self, gpus: Sequence[Gpu], leases: Sequence[Lease], lost: Callable[[], None], ttl_s: float) -> None:
        self.gpus = tuple(gpus)
        self._leases, self._lost, self._ttl_s = leases, lost, ttl_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gpu-lease", daemon=True)
        self._thread.start()

    @property
    def uuids(self) -> str:
        """As CUDA_VISIBLE_DEVICES takes them."""
        return ",".join(gpu.uuid for gpu in self.gpus)

    def release(self) -> None:
        """Let the next one have the GPUs at once; where Redis does not answer, they lapse by themselves."""
        self._end.set()
        self._thread.join()
        for lease in self._leases:
            try:
                lease.release()
            except redis.RedisError as error:
                log.warning("the lease of GPU %s could not be ended: %s", self.uuids, type(error).__name__)

    def _keep(self) -> None:
        while not self._end.wait(self._ttl_s / 3):
            try:
                # after a pause of Redis one may have lapsed without anyone taking it
                if not all(lease.renew() or lease.acquire() for lease in self._leases):
                    log.error("GPU %s is leased by another one now; this one ends", self.uuids)
                    self._lost()
                    return
            except redis.RedisError as error:
                log.warning("the lease of GPU %s could not be renewed: %s", self.uuids, type(error).__name__)


def lease_gpu(client: redis.Redis, settings: Settings, *, lost: Callable[[], None], ttl_s: float = TTL_S,
              gpus: Callable[[], Sequence[Gpu]] = list_gpus) -> GpuLease | None:  # fmt: skip
    """Lease a GPU for predictions and make it the only one that CUDA will see.

    None where there is nothing to lease: DEVICE is the CPU or names a GPU (cuda:1), CUDA_VISIBLE_DEVICES is set, or no
    GPU is there. With GPU_SHARING=wait it returns when no other worker has one; while Redis does not answer, it waits
    too. A training keeps no worker waiting: it is temporary, and predictions are a service.

    Raises:
        SettingsError: all are taken and GPU_SHARING=refuse.
    """
    if not _chooses(settings, gpus):
        return None
    guest = Guest(secrets.token_hex(8), training=False, shares=settings.gpu_sharing == "share")
    said: set[str] = set()

    def wait(reason: str) -> None:
        if reason not in said:
            log.warning("waiting for a GPU: %s", reason)
        said.add(reason)

    def explain(free: int) -> str:
        if settings.gpu_sharing != "wait":
            raise SettingsError(f"GPU_SHARING: {ALL_TAKEN}")
        return "every GPU is leased by another worker (GPU_SHARING=wait)"

    places, leases = _take(client, guest, 1, gpus, ttl_s, wait, explain)
    return _hold(places, leases, lost, ttl_s)


def lease_gpus_for_training(client: redis.Redis, settings: Settings, job_id: str, count: int, *, wait: Wait,
                            lost: Callable[[], None], ttl_s: float = TTL_S,
                            gpus: Callable[[], Sequence[Gpu]] = list_gpus) -> GpuLease | None:  # fmt: skip
    """Lease `count` GPUs for a training and make them all that CUDA will see in this process and its children.

    Free ones first; where there are too few, GPU_SHARING decides. What an earlier process of the same job held, it has
    back at once. None as in lease_gpu(). Raises what `wait` raises, and

    Raises:
        SettingsError: this host has fewer GPUs, or too few are free and GPU_SHARING=refuse.
    """
    if not _chooses(settings, gpus):
        return None
    present = len(gpus())
    if present < count:
        raise SettingsError(f"processes={count} needs as many GPUs, and the trainer sees {present}: ask for fewer")
    guest = Guest(job_id, training=True, shares=settings.gpu_sharing == "share")

    def explain(free: int) -> str:
        if settings.gpu_sharing == "refuse":
            raise SettingsError(f"GPU_SHARING=refuse: {TRAINING_REFUSED.format(free=free, count=count)}")
        return f"{free} of the {count} GPUs it needs are free (GPU_SHARING=wait)"

    places, leases = _take(client, guest, count, gpus, ttl_s, wait, explain)
    return _hold(places, leases, lost, ttl_s)


def _chooses(settings: Settings, gpus: Callable[[], Sequence[Gpu]]) -> bool:
    """Whether the choice of GPUs is ours: nobody named one, and there is one."""
    return settings.device in ("auto", "cuda") and VISIBLE not in os.environ and bool(gpus())


def _take(client: redis.Redis, guest: Guest, count: int, gpus: Callable[[], Sequence[Gpu]], ttl_s: float,
          wait: Wait, explain: Callable[[int], str]) -> tuple[list[Place], list[Lease]]:  # fmt: skip
    pause = threading.Event()
    while True:
        try:
            places = find_places(client, gpus(), guest)
            if len(places) >= count:
                if leases := sit_down(client, places[:count], guest, ttl_s):
                    return places[:count], leases
                continue  # somebody was faster: look anew, so that sharers spread evenly
            reason = explain(len(places))
        except redis.RedisError as error:  # as patient as Celery is
            reason = f"Redis does not answer ({type(error).__name__})"
        wait(reason)
        pause.wait(LOOK_AGAIN_S)


def _hold(places: Sequence[Place], leases: Sequence[Lease], lost: Callable[[], None], ttl_s: float) -> GpuLease:
    lease = GpuLease([place.gpu for place in places], leases, lost, ttl_s)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ[VISIBLE] = lease.uuids
    for place in places:
        log.info("leased GPU %s (%s), which %d others use", place.gpu.uuid, place.gpu.name, place.others)
    return lease
