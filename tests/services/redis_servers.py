"""Redis for a test: alone, behind TLS, or as a master with a replica that sentinels watch. All on loopback.

Called by: tests/services. Must not import: backend, worker.
Example: with RedisServer.start(folder, "--requirepass", "pw") as server: server.port
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from groundcrew.child import Child, free_port
from tests.services.machine import absent
from tests.services.waiting import wait_until


class RedisServer:
    """One `redis-server`; `mode` is "--sentinel" for a sentinel, whose file it rewrites."""

    def __init__(self, child: Child, port: int) -> None:
        self.child, self.port = child, port

    @classmethod
    def start(cls, folder: Path, *options: str, port: int = 0) -> RedisServer:
        folder.mkdir(parents=True, exist_ok=True)
        program, port = shutil.which("redis-server") or absent("redis-server"), port or free_port()
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        return cls(Child.start([program, *(options or ()), *place], log_path=folder / "redis.log"), port)

    @classmethod
    def start_sentinel(cls, folder: Path, master_port: int, password: str) -> RedisServer:
        """Alone it is a quorum; it gives a silent master one second."""
        folder.mkdir(parents=True)
        (folder / "sentinel.conf").write_text(
            f"sentinel monitor crew 127.0.0.1 {master_port} 1\nsentinel auth-pass crew {password}\n"
            "sentinel down-after-milliseconds crew 1000\nsentinel failover-timeout crew 5000\n"
        )
        return cls.start(folder, str(folder / "sentinel.conf"), "--sentinel")

    def kill(self) -> None:
        self.child.stop(grace_s=0)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.stop()


@contextmanager
def serve_redis(folder: Path, password: str = "") -> Iterator[str]:
    """The address of a server that answers; it ends with the block."""
    with RedisServer.start(folder, *(["--requirepass", password] if password else [])) as server:
        url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.1), 100)) as client:
            client.ping()
        yield url


class Certificates(NamedTuple):
    """An authority and a certificate, as files."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, name: str = "IP:127.0.0.1") -> Certificates:
    """`name` is whom it is for, as `DNS:redis.example.org`."""
    program = shutil.which("openssl") or absent("openssl")
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", f"subjectAltName={name}", "-keyout", files.key, "-out", files.certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.copy(files.certificate, files.authority)  # it signs itself
    return files


def wait_for_replica(port: int, password: str) -> None:
    with redis.Redis(port=port, password=password) as client:
        wait_until(lambda: _is_synced(client), "the replica to hold what the master holds")


def _is_synced(client: redis.Redis) -> bool:
    try:
        return client.info("replication").get("master_link_status") == "up"
    except redis.RedisError:  # not there yet
        return False
