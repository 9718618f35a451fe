"""A crew for measuring: its own Redis, API, writer and workers with a metered detector, and what each of them costs.

Called by: the benchmarks. Must not import: backend, worker (they run as processes of their own).
Parts are started by the commands of `groundcrew up`, the workers apart (benchmarks/metered_worker.py); no trainer.
Example: `with start_crew(folder, workers=1) as crew: requests.post(f"{crew.url}/predict", json=body)`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
import requests

from benchmarks.metered_worker import Call, read_calls
from contract.broker import connect_redis
from contract.heartbeats import alive
from contract.settings import Settings, read_settings, to_environment
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.embedded_redis import EmbeddedRedis
from groundcrew.up import part_commands

REPOSITORY = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 120.0
POLL_S = 0.02


@dataclass(frozen=True)
class BenchCrew:
    """Running parts by name; workers share a name."""

    settings: Settings
    client: redis.Redis
    folder: Path
    detector: str
    parts: dict[str, list[Child]] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)  #: stops what was started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.api_port}"

    def start_workers(self, count: int) -> None:
        """More workers; returns when all are ready."""
        command = [sys.executable, "-m", "benchmarks.metered_worker", self.detector, str(self._calls_path)]
        self.start_parts([("workers", command)] * count)

    def start_parts(self, commands: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Names and commands; returns when all that was ever started is ready."""
        env = bare_environment(to_environment(self.settings)) | {"PYTHONPATH": str(REPOSITORY)}
        for name, command in commands:
            children = self.parts.setdefault(name, [])
            log_path = self.folder / f"{name}-{len(children)}.log"
            children.append(Child.start(command, env=env, cwd=self.folder, log_path=log_path))
            self.stack.callback(children[-1].stop)
        wait_until(self._is_ready, START_DEADLINE_S, "the crew")

    def _is_ready(self) -> bool:
        for child in (child for children in self.parts.values() for child in children):
            if child.exit_code is not None:
                raise RuntimeError(f"a part of the crew ended:\n{child.log_tail()}")
        beating = sum(len(children) for name, children in self.parts.items() if name != "API")
        return len(alive(self.client)) == beating and ("API" not in self.parts or _answers(f"{self.url}/health"))

    @property
    def _calls_path(self) -> Path:
        return self.folder / "calls.jsonl"

    def calls(self) -> list[Call]:
        """The detect calls so far."""
        return read_calls(self._calls_path)

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds since the start, by part."""
        return {name: sum(_cpu_s(one) for one in found) for name, found in self._processes().items()}

    def rss_bytes(self) -> dict[str, int]:
        """Memory now, by part; that of Redis as it counts itself."""
        rss = {name: sum(one.memory_info().rss for one in found) for name, found in self._processes().items()}
        return rss | {"redis": int(self.client.info("memory")["used_memory"])}

    def _processes(self) -> dict[str, list[psutil.Process]]:
        pids = {name: [child.pid for child in children] for name, children in self.parts.items()}
        pids["redis"] = [int(self.client.info("server")["process_id"])]
        parents = {name: [psutil.Process(pid) for pid in found] for name, found in pids.items()}
        return {
            name: [one for p in found for one in (p, *p.children(recursive=True))] for name, found in parents.items()
        }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def process_cpu_s(pid: int) -> float:
    """Processor seconds of a process and all below it, since they started."""
    process = psutil.Process(pid)
    return sum(map(_cpu_s, (process, *process.children(recursive=True))))


@contextmanager
def start_crew(
    folder: Path, *, workers: int, detector: str = "sleeping", parts: Sequence[str] = ("API", "writer"),
    environment: Mapping[str, str] | None = None, prepare: Callable[[Settings, redis.Redis], None] | None = None,
) -> Iterator[BenchCrew]:  # fmt: skip
    """A crew that is ready; the environment names further settings. Its logs and its data are kept in `folder`.

    `prepare` runs when Redis is there and nothing else yet.
    """
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis.start(folder / "redis"))
        fixed = {"REDIS_URL": server.url, "API_PORT": str(free_port()), "TORCH_THREADS": "1", "LOG_LEVEL": "WARNING"}
        settings = read_settings(fixed | dict(environment or {}))
        client = stack.enter_context(connect_redis(settings))
        if prepare is not None:
            prepare(settings, client)
        crew = BenchCrew(settings, client, folder, detector)
        stack.enter_context(crew.stack)
        crew.start_parts([command for command in part_commands(settings, 0) if command[0] in parts])
        if workers:
            crew.start_workers(workers)
        yield crew


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def wait_until(is_true: Callable[[], bool], deadline_s: float, what: str) -> float:
    """Seconds until it was true. Raises TimeoutError."""
    began_s = time.monotonic()
    while not is_true():
        if time.monotonic() - began_s > deadline_s:
            raise TimeoutError(f"{what} took longer than {deadline_s:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - began_s
