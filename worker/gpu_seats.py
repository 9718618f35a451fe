"""Seats on GPUs, in Redis: which are taken, where one more process would sit best, and how it sits down.

Called by: worker.gpu_lease, worker.finetune. Must not import: torch, which would start CUDA.
Predictions and trainings have seats of their own on each GPU: a training keeps no worker out, but not the other way
round. Example: `places = find_places(client, list_gpus(), Guest("a1b2", training=False, shares=True)); places[0].gpu`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import redis

from contract.leases import Lease, acquire_all, owners
from worker.gpus import Gpu

MOST_SHARERS = 16  #: workers, and as many trainings, on one GPU


class Guest(NamedTuple):
    """Who wants a GPU."""

    owner: str  #: of the leases; a job that goes on in another process keeps its name, and has its seats back
    training: bool
    shares: bool  #: sits down beside others where no GPU is free


class Place(NamedTuple):
    """The best seat on one GPU."""

    gpu: Gpu
    seat: str  #: key of the lease
    was_free: tuple[str, ...]  #: keys of the GPU's seats that nobody else had, this one among them
    others: int  #: processes on it
    mine: bool  #: whether the guest had it already

    @property
    def rank(self) -> tuple[bool, bool, float, str]:
        """Lowest first: one's own seat, a GPU of one's own, then where most memory is left for one more."""
        return (not self.mine, self.others > 0, -self.gpu.free_bytes / (self.others + 1), self.gpu.uuid)


def seat_keys(uuid: str, *, training: bool) -> list[str]:
    """The keys of the leases on one GPU's seats: number 0 is the first worker or training, higher ones share it."""
    kind = ":train" if training else ""
    return [f"gpu:{uuid}{kind}:{number}" for number in range(MOST_SHARERS)]


def find_places(client: redis.Redis, gpus: Sequence[Gpu], guest: Guest) -> list[Place]:
    """A place on each GPU that the guest may have, best first. Raises redis.RedisError."""
    found = (_look(client, gpu, guest) for gpu in gpus)
    return sorted((place for place in found if place is not None), key=lambda place: place.rank)


def _look(client: redis.Redis, gpu: Gpu, guest: Guest) -> Place | None:
    mine, theirs = (seat_keys(gpu.uuid, training=kind) for kind in (guest.training, not guest.training))
    keys = [*mine, *theirs]
    held = dict(zip(keys, owners(client, keys), strict=True))
    own = [key for key in keys if held[key] == guest.owner]
    was_free = tuple(key for key in keys if held[key] in (None, guest.owner))
    others = len(keys) - len(was_free)
    # without sharing all workers want seat 0, so that only one of those who look at the same time gets it
    in_the_way = 0 if guest.shares else others if guest.training else int(mine[0] not in was_free)
    seat = next((key for key in (*own, *mine) if key in was_free), None)
    if in_the_way or seat is None:
        return None
    return Place(gpu, seat, was_free, others, bool(own))


def sit_down(client: redis.Redis, places: Sequence[Place], guest: Guest, ttl_s: float) -> list[Lease]:
    """Take one seat on each GPU in one step; the empty list where somebody came to one of them since it was looked at.

    Raises redis.RedisError.
    """
    was_free = [key for place in places for key in place.was_free]
    return acquire_all(client, [place.seat for place in places], owner=guest.owner, ttl_s=ttl_s, unless_held=was_free)


def stand_up(client: redis.Redis, uuids: Sequence[str], job_id: str) -> None:
    """End the leases that a training has on these GPUs, whichever process took them. Raises redis.RedisError."""
    keys = [key for uuid in uuids for key in seat_keys(uuid, training=True)]
    for key, owner in zip(keys, owners(client, keys), strict=True):
        if owner == job_id:
            Lease(client, key, owner=job_id).release()
