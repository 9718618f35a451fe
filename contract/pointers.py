"""Which version each project uses, as last read from a store that is far away: a request never waits long for it.

Called by: contract.stores. Must not import: fsspec.
Label Studio gives /setup three seconds; a client of a store that is away tries for ten, or for minutes if it hangs.
Example: `Pointers(read).get(3, fresh=False)` -> bytes of current.json, or None where nothing was promoted
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from contract.errors import RegistryError

log = logging.getLogger(__name__)

TTL_S = 2.0  #: /setup has milliseconds, a GET takes tens of them
PATIENCE_S = 1.0


class _Known(NamedTuple):
    read_s: float  #: monotonic
    body: bytes | None


class _Asking(NamedTuple):
    began_s: float  #: monotonic
    thread: threading.Thread


class Pointers:
    """`read` gets a project's number and may raise RegistryError; get() raises it where nothing is known yet."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read
        self._known: dict[int, _Known] = {}
        self._asking: dict[int, _Asking] = {}
        self._starting = threading.Lock()

    def get(self, project_id: int, *, fresh: bool) -> bytes | None:
        """At most TTL_S old, or what was known before when the store does not answer within PATIENCE_S."""
        known = self._known.get(project_id)
        if known is None or fresh:
            return self._ask(project_id)
        if time.monotonic() - known.read_s >= TTL_S:
            self._ask_beside(project_id)
        return self._known.get(project_id, known).body

    def forget(self, project_id: int) -> None:
        """After a change; the next one who asks reads it."""
        self._known.pop(project_id, None)

    def _ask(self, project_id: int) -> bytes | None:
        known = self._known.get(project_id)
        try:
            body = self._read(project_id)
        except RegistryError as error:
            if known is None:
                raise
            log.warning("%s; going on with the version known before", error.message)
            body = known.body
        self._known[project_id] = _Known(time.monotonic(), body)
        return body

    def _ask_beside(self, project_id: int) -> None:
        """In a thread, one a project, which whoever comes in its first moment waits for."""
        with self._starting:
            asking = self._asking.get(project_id)
            if asking is None or not asking.thread.is_alive():
                thread = threading.Thread(target=self._ask_quietly, args=(project_id,), name="pointer", daemon=True)
                asking = self._asking[project_id] = _Asking(time.monotonic(), thread)
                thread.start()
        asking.thread.join(max(0.0, asking.began_s + PATIENCE_S - time.monotonic()))

    def _ask_quietly(self, project_id: int) -> None:
        with suppress(RegistryError):  # forgotten meanwhile: whoever asks next is told
            self._ask(project_id)
