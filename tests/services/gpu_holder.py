"""A process that leases one of some simulated GPUs as a worker does, says which on standard output, and holds it.

Called by: tests/services/test_gpu_lease.py, as `python -m tests.services.gpu_holder TTL_S UUID...`, one a "host".
Must not import: torch.
Example output: {"host": "gpu-host-3", "leased": "GPU-1", "visible": "GPU-1"}
"""

from __future__ import annotations

import json
import os
import socket
import sys

from contract.broker import connect_redis
from contract.errors import SettingsError
from contract.settings import read_settings
from worker.gpu_lease import VISIBLE, lease_gpu
from worker.gpus import Gpu

GIB = 1024**3
LOST_EXIT_CODE = 3


def say(**facts: object) -> None:
    print(json.dumps({"host": socket.gethostname(), **facts}), flush=True)


def main(ttl_s: str, *uuids: str) -> None:
    gpus = [Gpu(uuid, "simulated", 80 * GIB, 80 * GIB) for uuid in uuids]
    settings = read_settings()
    sys.stdin.readline()  # the starting gun: all hosts race
    try:
        lease = lease_gpu(connect_redis(settings), settings, lost=lambda: os._exit(LOST_EXIT_CODE),
                          ttl_s=float(ttl_s), gpus=lambda: gpus)  # fmt: skip
    except SettingsError as error:
        say(refused=error.message)
        return
    say(leased=lease.gpu.uuid, visible=os.environ[VISIBLE], torch="torch" in sys.modules)
    sys.stdin.readline()
    lease.release()
    say(released=lease.gpu.uuid)


if __name__ == "__main__":
    main(*sys.argv[1:])
