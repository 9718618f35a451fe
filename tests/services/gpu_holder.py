"""A process that leases simulated GPUs as a worker or a training does, says which on standard output, and holds them.

Called by: tests/services/test_gpu_lease.py, test_training_gpus.py, by way of Holder. Must not import: torch.
It runs `python -m tests.services.gpu_holder WHO TTL_S UUID...` on a "host" of its own; WHO is "worker", or a job and
how many GPUs it needs: "ft-1-a:2". Example output: {"host": "gpu-host-3", "leased": "GPU-1", "visible": "GPU-1"}
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contract.broker import connect_redis
from contract.errors import SettingsError
from contract.settings import read_settings
from tests.services.machine import REPOSITORY
from worker.gpu_lease import VISIBLE, GpuLease, lease_gpu, lease_gpus_for_training
from worker.gpus import Gpu

UUIDS = ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
GIB = 1024**3
LOST_EXIT_CODE = 3
LONG_S = 600.0


class Holder:
    """One "host": a process in a name space of its own, whose host name is its own too."""

    def __init__(self, number: int, redis_url: str, sharing: str, ttl_s: float, who: str) -> None:
        as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        host = f"gpu-host-{number}"
        python = [sys.executable, "-m", "tests.services.gpu_holder", who, str(ttl_s), *UUIDS]
        command = ["unshare", *as_root, "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *python]
        environment = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "GPU_SHARING": sharing}
        self.process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def go(self) -> None:
        """Starts the race, and later ends the holding."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextmanager
def holding(redis_url: str, sharing: str, *who: str, ttl_s: float = LONG_S) -> Iterator[list[Holder]]:
    """A holder for each of `who`, all of them ended afterwards."""
    made = [Holder(number, redis_url, sharing, ttl_s, one) for number, one in enumerate(who)]
    try:
        yield made
    finally:
        for holder in made:
            holder.process.kill()
            holder.process.communicate()


def race(holders: Sequence[Holder]) -> list[dict]:
    """All begin at once; the first thing that each of them says."""
    for holder in holders:
        holder.go()
    return [holder.says() for holder in holders]


def say(**facts: object) -> None:
    print(json.dumps({"host": socket.gethostname(), **facts}), flush=True)


def lease(who: str, ttl_s: float, gpus: Sequence[Gpu]) -> GpuLease | None:
    """As a worker or a training does; the latter says so when it has to wait, once."""
    settings = read_settings()
    known = {"lost": lambda: os._exit(LOST_EXIT_CODE), "ttl_s": ttl_s, "gpus": lambda: gpus}
    if who == "worker":
        return lease_gpu(connect_redis(settings), settings, **known)
    said: list[str] = []

    def wait(reason: str) -> None:
        if not said:
            say(waiting=reason)
        said.append(reason)

    job, _, count = who.partition(":")
    return lease_gpus_for_training(connect_redis(settings), settings, job, int(count), wait=wait, **known)


def main(who: str, ttl_s: str, *uuids: str) -> None:
    sys.stdin.readline()  # the starting gun: all hosts race
    try:
        held = lease(who, float(ttl_s), [Gpu(uuid, "simulated", 80 * GIB, 80 * GIB) for uuid in uuids])
    except SettingsError as error:
        say(refused=error.message)
        return
    assert held is not None
    say(leased=held.uuids, visible=os.environ[VISIBLE], torch="torch" in sys.modules)
    sys.stdin.readline()
    held.release()
    say(released=held.uuids)


if __name__ == "__main__":
    main(*sys.argv[1:])
