"""The real API, which dies where a request asks for it: with its answer ready, and not sent.

Called by: gunicorn, for benchmarks/faults_site.py. Must not import: worker.
Example: POST /predict with the header `X-Die: 1` does all its work, and then the process is killed by SIGKILL
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from backend.wsgi import application as api


def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    answer: Iterable[bytes] = api(environ, start_response)
    if environ.get("HTTP_X_DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
