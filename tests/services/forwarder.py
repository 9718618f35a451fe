"""A door from containers to a service on this host's loopback: listens on the Docker bridge, where no network leads.

Called by: tests/services/test_compose.py. Must not import: anything of ours.
Example: with Forwarder("172.17.0.1", target_port=8080) as door: door.port
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType


class Forwarder:
    """Copies bytes both ways, in a thread of its own."""

    def __init__(self, host: str, *, target_port: int) -> None:
        self._host, self._target_port = host, target_port
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forwarder", daemon=True)
        self.port = 0

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._connected, self._host, 0) as server:
            self.port = int(server.sockets[0].getsockname()[1])
            self._ready.set()
            await self._end.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # a connection that is open at the end
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))

    def __enter__(self) -> Forwarder:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    except ConnectionError:  # one side has gone; so does the other
        pass
    finally:
        target.close()
