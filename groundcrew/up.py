"""`groundcrew up`: everything one machine needs, in one process tree: Redis, API, workers, writer.

Called by: groundcrew.cli, backend/_wsgi.py (through the command line). Must not import: backend, worker.
Example: `Up(settings, workers=1, say=print).run()`
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from contract.broker import connect_redis
from contract.errors import GroundcrewError
from contract.heartbeats import alive
from contract.settings import Settings, to_environment
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.embedded_redis import EmbeddedRedis

HOME = Path(".groundcrew")
STATE_FILE = HOME / "up.json"  #: lets `groundcrew doctor` and `jobs` in another terminal find this crew
READY_DEADLINE_S = 600.0  #: a full-size checkpoint from a slow disk
GRACE_S = 30.0
API_THREADS = 32  #: each waiting /predict of an opened task holds one
HEALTHY_AFTER_S = 30.0  #: a child that lived this long is restarted without delay
MOST_PAUSE_S = 30.0  #: between an early death and the next start
STORE_VARIABLES = ("AWS_", "AZURE_", "FSSPEC_", "GOOGLE_")  #: how their names begin
WORKER_FATAL_CODES = frozenset({78})  #: EX_CONFIG, see worker/__main__.py
API_FATAL_CODES = frozenset({1, 3})  #: gunicorn's: the port is taken; the application does not load


class CannotStart(GroundcrewError):
    """A part of the crew does not start; its message is above."""

    code = "cannot_start"


class Part:
    """One supervised child process."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], *, log_path: Path | None = None,
                 most_pause_s: float = MOST_PAUSE_S) -> None:  # fmt: skip
        self.name, self._command, self._env, self._log_path = name, command, env, log_path
        self._most_pause_s = most_pause_s
        self._fatal = API_FATAL_CODES if name == "API" else WORKER_FATAL_CODES
        self._failures = 0
        self._restart_at_s = 0.0
        self.start()

    def start(self) -> None:
        self._started_s = time.monotonic()
        # Nothing is lost by a kill: a worker's messages come back. The API gets the time to answer whom it serves.
        wish = signal.SIGTERM if self.name == "API" else signal.SIGKILL
        self.child = Child.start(self._command, env=self._env, when_we_die=wish, log_path=self._log_path)

    def keep_alive(self, say: Callable[[str], None]) -> None:
        """Start it again when it has ended, after a pause that grows with each early death.

        Raises CannotStart when it ends at once because of a bad setting.
        """
        if self.child.exit_code is None:
            return
        if not self._restart_at_s:
            lived_s = time.monotonic() - self._started_s
            if self.child.exit_code in self._fatal and lived_s < HEALTHY_AFTER_S:
                raise CannotStart(f"the {self.name} cannot start; its reason is above")
            self._failures = 0 if lived_s > HEALTHY_AFTER_S else self._failures + 1
            pause_s = min(2**self._failures - 1, self._most_pause_s)
            say(f"the {self.name} ended with code {self.child.exit_code}; starting it again in {pause_s:g} s")
            self._restart_at_s = time.monotonic() + pause_s
        if time.monotonic() >= self._restart_at_s:
            self._restart_at_s = 0.0
            self.start()


class Up:
    """The whole crew on one machine. run() blocks until SIGINT or SIGTERM."""

    def __init__(self, settings: Settings, *, workers: int, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._workers = workers
        self._say = say
        self._stop = threading.Event()
        self._redis: EmbeddedRedis | None = None

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Start, say when ready (on_ready gets the API's URL), supervise, stop. Raises GroundcrewError."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        with ExitStack() as stack:
            stack.enter_context(_only_one())
            settings = self._with_redis(stack)
            env = bare_environment(to_environment(settings) | _store_keys(settings))
            parts = [Part(name, command, env) for name, command in part_commands(settings, self._workers)]
            for part in parts:  # stopped in reverse: API first, then writer and workers, Redis last
                stack.callback(lambda part=part: part.child.stop(grace_s=GRACE_S))
            stack.callback(self._say, "stopping: running images finish, waiting ones are kept")
            url = f"http://{settings.api_host}:{settings.api_port}"
            stack.callback(STATE_FILE.unlink, missing_ok=True)
            _write_state(settings, url)
            self._wait_until_ready(settings, url, parts)
            if on_ready and not self._stop.is_set():
                on_ready(url)
            while not self._stop.wait(0.5):
                self._keep_alive(parts)

    def _with_redis(self, stack: ExitStack) -> Settings:
        port = self._settings.api_port or free_port()
        settings = self._settings.model_copy(update={"api_port": port})
        if settings.redis_url:
            connect_redis(settings).ping()
            return settings
        self._say("starting Redis")
        server = stack.enter_context(EmbeddedRedis.start(HOME / "redis"))
        self._redis = server
        return settings.model_copy(update={"redis_url": server.url})

    def _keep_alive(self, parts: list[Part]) -> None:
        if self._redis is not None:
            self._redis.keep_alive(self._say)
        for part in parts:
            part.keep_alive(self._say)

    def _wait_until_ready(self, settings: Settings, url: str, parts: list[Part]) -> None:
        self._say("starting the API, the writer and the worker; the model is loading")
        end = time.monotonic() + READY_DEADLINE_S
        with connect_redis(settings) as client:
            while not self._stop.wait(0.1):
                self._keep_alive(parts)
                roles = _roles(client)
                if roles.count("predict") >= self._workers and "write" in roles and _answers(f"{url}/health"):
                    return
                if time.monotonic() > end:
                    raise CannotStart(f"the crew was not ready within {READY_DEADLINE_S:.0f} s; see the messages above")


def _roles(client: redis.Redis) -> list[object]:
    """What the living processes do; none while Redis is just being started again."""
    try:
        return [process["role"] for process in alive(client)]
    except redis.RedisError:
        return []


def part_commands(settings: Settings, workers: int) -> list[tuple[str, list[str]]]:
    """Name and command of each part, in the order in which they start."""
    python = sys.executable
    api = [python, "-m", "gunicorn", "backend.wsgi:application", "--bind", f"{settings.api_host}:{settings.api_port}",
           "--worker-class", "gthread", "--threads", str(API_THREADS), "--timeout", "120",
           "--graceful-timeout", str(int(GRACE_S)), "--log-level", "warning", "--no-control-socket"]  # fmt: skip
    predict = [(f"worker {n + 1}", [python, "-m", "worker", "predict"]) for n in range(workers)]
    writer, trainer = [python, "-m", "worker", "write"], [python, "-m", "worker", "train"]
    return [*predict, ("writer", writer), ("trainer", trainer), ("API", api)]


@contextmanager
def _only_one() -> Iterator[None]:
    """Two crews in one directory would share, and stop, one Redis. The lock goes with the process, however it ends."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart("a crew is running in this directory already; stop it, or start in another one") from None
        yield


def _store_keys(settings: Settings) -> dict[str, str]:
    """What a MODEL_DIR in a bucket is opened with, as any tool of its cloud takes it from the environment."""
    wanted = settings.model_dir_is_remote
    return {name: value for name, value in os.environ.items() if wanted and name.startswith(STORE_VARIABLES)}


def _write_state(settings: Settings, url: str) -> None:
    beside = STATE_FILE.with_suffix(".part")
    beside.touch(mode=0o600)
    beside.write_text(json.dumps({"redis_url": settings.redis_url, "api_url": url}) + "\n", encoding="utf-8")
    beside.replace(STATE_FILE)  # whole, for whoever reads it this moment


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own http address
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
