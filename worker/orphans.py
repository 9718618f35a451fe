"""A process that ends with the one that started it, however that one ended: kill -9 tells nobody.

Called by: worker.stages, worker.training.parallel. Must not import: anything of ours.
The starter keeps the write end of a pipe open and writes nothing; when it is gone, standard input ends.
Example: `subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)`, and there `end_with_parent()`
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """From now on kill this process's whole group as soon as standard input ends."""
    threading.Thread(target=_watch, name="parent", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
