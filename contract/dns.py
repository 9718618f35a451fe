"""Looks a name up with a time limit: the system's resolver has none of its own, and cannot be interrupted.

Called by: contract.redis_connections, worker.connections. Must not import: Celery, Flask.
Each look-up has a thread to itself; one that hangs is left to the resolver's patience, and its caller goes on.
Example: `look_up("images.example.org", 443, 30.0) -> ["93.184.215.14"]`
"""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future

LONGEST_LOOK_UP_S = 10.0  #: a lost question is asked again after 5 s
#: Look-ups under way. A worker's 20 downloads start fewer, even where each hangs a minute and is given up after half.
MOST_LOOK_UPS = 64
PLACES = threading.BoundedSemaphore(MOST_LOOK_UPS)


def look_up(host: str, port: int, timeout_s: float, places: threading.Semaphore = PLACES) -> list[str]:
    """Every IP address of the name, in the order in which the system would try them.

    Raises OSError or UnicodeError: there is none; TimeoutError: nobody said so within timeout_s seconds.
    """
    end_s = time.monotonic() + timeout_s
    if not places.acquire(timeout=timeout_s):
        raise TimeoutError
    found: Future[list[str]] = Future()
    # A daemon, not a pool's thread: a process that leaves must not wait for it.
    threading.Thread(target=_settle, args=(found, host, port, places), name="dns", daemon=True).start()
    return found.result(timeout=max(0.0, end_s - time.monotonic()))


def limit_of(timeout_s: float | None) -> float:
    """The limit in seconds of a look-up for a connection that may take timeout_s (None: for ever)."""
    return LONGEST_LOOK_UP_S if timeout_s is None else min(timeout_s, LONGEST_LOOK_UP_S)


def _settle(found: Future[list[str]], host: str, port: int, places: threading.Semaphore) -> None:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(row[4][0]) for row in rows)))
    except Exception as error:  # raised again where it was asked for
        found.set_exception(error)
    finally:
        places.release()
