"""A whole crew to break: Redis, API, writers and workers under supervision, and a Label Studio that counts.

Called by: the rows in benchmarks/faults_*.py. Must not import: backend, worker (they run as processes of their own).
Example: `with Site.start(folder) as site: site.announce(range(1, 1001)); site.kill("worker 1"); site.wait_stored(...)`
"""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import redis
import requests
from PIL import Image

from contract.broker import UNACKED_KEY, connect_redis, queue_depths
from contract.delayed import Delayed
from contract.heartbeats import alive
from contract.settings import Settings, read_settings, to_environment
from contract.status import JobRecords
from groundcrew.child import bare_environment, free_port
from groundcrew.embedded_redis import EmbeddedRedis
from groundcrew.up import Part, part_commands
from tests.fakes.faulty_label_studio import FaultyLabelStudio

HARMLESS = (0, 128, 0)  #: colour of an image that does nothing (benchmarks/faults_worker.py)
PROJECT = 1
READY_S = 60.0
POLL_S = 0.05
ROOT = Path(__file__).resolve().parent.parent
#: Short limits, so that what takes minutes by default is over within the minute of a row.
QUICK = {"IMAGE_TIMEOUT_S": "4", "DETECT_TIMEOUT_S": "5", "PREDICT_WAIT_S": "3", "LOG_LEVEL": "INFO"}
LABELS = ("red circle", "blue square")


def image_uri(colour: tuple[int, int, int] = HARMLESS) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(colour)).decode()


def _png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(buffer, "PNG")
    return buffer.getvalue()


def label_config(*labels: str) -> str:
    rows = "".join(f'<Label value="{label}"/>' for label in labels)
    return (f'<View><Image name="image" value="$image"/>'
            f'<RectangleLabels name="label" toName="image">{rows}</RectangleLabels></View>')  # fmt: skip


class Site:
    """All parts of one crew. Times are of the monotonic clock."""

    def __init__(self, folder: Path, workers: int, writers: int, worker_env: Mapping[str, str],
                 settings: Mapping[str, str]) -> None:  # fmt: skip
        self.folder = folder
        self._stack, self._stopped = ExitStack(), threading.Event()
        self.label_studio = self._stack.enter_context(FaultyLabelStudio.start())
        self.label_studio.images["plain.png"] = _png(HARMLESS)
        self.redis_server = self._stack.enter_context(EmbeddedRedis.start(folder / "redis"))
        self.settings = self._read_settings(settings)
        self.client: redis.Redis = self._stack.enter_context(connect_redis(self.settings))
        self.records = JobRecords(self.client, failed_memory_s=0)
        self.url = f"http://127.0.0.1:{self.settings.api_port}"
        self.revive = True  #: whether Redis is started again when it has ended
        self._paused: list[int] = []
        self.parts: dict[str, Part] = {}
        filled = {name: value.format(folder=folder) for name, value in worker_env.items()}
        for name, command in self._commands(workers, writers):
            self.start_part(name, command, filled if name.startswith("worker") else {})

    @classmethod
    def start(cls, folder: Path, *, workers: int = 1, writers: int = 1, worker_env: Mapping[str, str] | None = None,
              settings: Mapping[str, str] | None = None) -> Site:  # fmt: skip
        """Raises TimeoutError when it does not get ready."""
        folder.mkdir(parents=True, exist_ok=True)
        site = cls(folder, workers, writers, worker_env or {}, settings or {})
        keeper = threading.Thread(target=site._keep_alive, name="keeper")
        keeper.start()
        site._stack.callback(keeper.join)
        site._stack.callback(site._stopped.set)
        try:
            site.wait_ready(workers, writers)
        except BaseException:
            site.stop()
            raise
        return site

    def stop(self) -> None:
        self._stopped.set()
        self.resume()
        for part in self.parts.values():
            part.child.stop(grace_s=2)
        self._stack.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.stop()

    def _read_settings(self, changes: Mapping[str, str]) -> Settings:
        fixed = {
            "REDIS_URL": self.redis_server.url, "API_PORT": str(free_port()), "TORCH_THREADS": "1",
            "LABEL_STUDIO_URL": self.label_studio.url, "LABEL_STUDIO_API_KEY": self.label_studio.personal_token,
            "MODEL_DIR": str(self.folder / "models"),
        }  # fmt: skip
        return read_settings(QUICK | fixed | dict(changes))

    # -- parts -----------------------------------------------------------------------------------------------------

    def _commands(self, workers: int, writers: int) -> list[tuple[str, list[str]]]:
        by_name = dict(part_commands(self.settings, 0))
        api = ["benchmarks.faults_api:application" if word == "backend.wsgi:application" else word
               for word in by_name["API"]]  # fmt: skip
        worker = [sys.executable, "-m", "benchmarks.faults_worker"]
        return [
            *((f"worker {n + 1}", worker) for n in range(workers)),
            *((f"writer {n + 1}", by_name["writer"]) for n in range(writers)),
            ("API", api),
        ]

    def start_part(self, name: str, command: list[str], env: Mapping[str, str]) -> None:
        all_env = bare_environment(to_environment(self.settings)) | {"PYTHONPATH": str(ROOT), **env}
        log_path = self.folder / f"{name.replace(' ', '-')}.log"
        self.parts[name] = Part(name, command, all_env, log_path=log_path, most_pause_s=1.0)

    def _keep_alive(self) -> None:
        while not self._stopped.wait(0.2):
            if self.revive:
                self.redis_server.keep_alive(_say_nothing)
            for part in list(self.parts.values()):
                part.keep_alive(_say_nothing)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """The part's whole process group, as the kernel would; one that is just being started again is waited for."""
        part = self.parts[name]
        wait_until(lambda: part.child.exit_code is None, READY_S, f"{name} to live")
        os.killpg(part.child.pid, number)

    def retire(self, name: str) -> float:
        """SIGTERM, and no new start; returns the seconds until it had left by itself."""
        part, began_s = self.parts.pop(name), time.monotonic()
        os.kill(part.child.pid, signal.SIGTERM)
        wait_until(lambda: part.child.exit_code is not None, 60, f"{name} to leave")
        return time.monotonic() - began_s

    @property
    def redis_pid(self) -> int:
        return int(self.client.info("server")["process_id"])

    def resume(self) -> None:
        """Whatever a row has stopped goes on."""
        self.revive = True
        for pid in self._paused:
            os.kill(pid, signal.SIGCONT)
        self._paused.clear()

    def pause(self, pid: int) -> None:
        """SIGSTOP: connections stay open, and nobody answers."""
        self._paused.append(pid)
        os.kill(pid, signal.SIGSTOP)



    def wait_ready(self, workers: int, writers: int) -> None:
        def ready() -> bool:
            roles = [process["role"] for process in alive(self.client)]
            return roles.count("predict") >= workers and roles.count("write") >= writers and self.api_answers()

        wait_until(ready, READY_S, "the crew to be ready", self.log_tails)

    def api_answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def log_tails(self) -> str:
        return "\n".join(f"-- {name}\n{part.child.log_tail(8)}" for name, part in self.parts.items())

    def logged(self, name: str, words: str) -> bool:
        return words in self.parts[name].child.log_text()

    # -- what Label Studio does ------------------------------------------------------------------------------------

    def setup(self, project: int = PROJECT, labels: Sequence[str] = LABELS) -> str:
        """The model version that predictions of this project will have."""
        body = {"project": f"{project}.1", "schema": label_config(*labels), "hostname": "", "access_token": ""}
        answer = requests.post(f"{self.url}/setup", json=body, timeout=10)
        answer.raise_for_status()
        return str(answer.json()["model_version"])

    def announce(self, tasks: Iterable[int], *, project: int = PROJECT, labels: Sequence[str] = LABELS,
                 images: Mapping[int, str] | None = None,
                 action: str = "TASKS_CREATED") -> requests.Response:  # fmt: skip
        """The webhook of new (or deleted) tasks."""
        known = {"id": project, "title": "Faults", "label_config": label_config(*labels)}
        body = {"action": action, "project": known, "tasks": _tasks(tasks, project, images or {})}
        return requests.post(f"{self.url}/webhook", json=body, timeout=30)

    def ask(self, tasks: Sequence[int]) -> None:
        """As announce(), in requests so small that the API sends the jobs itself and no writer has to expand them."""
        for start in range(0, len(tasks), 20):
            self.announce(tasks[start : start + 20]).raise_for_status()

    def predict(self, tasks: Iterable[int], *, project: int = PROJECT, die: bool = False,
                images: Mapping[int, str] | None = None) -> requests.Response:  # fmt: skip
        body = {
            "tasks": _tasks(tasks, project, images or {}), "project": f"{project}.1",
            "label_config": label_config(*LABELS), "params": {"context": None},
        }  # fmt: skip
        headers = {"X-Die": "1"} if die else {}
        return requests.post(f"{self.url}/predict", json=body, headers=headers, timeout=100)

    def stored(self, version: str) -> set[int]:
        """Tasks that hold a prediction of this version."""
        return {task for task, name in list(self.label_studio.stored) if name == version}

    def wait_stored(self, tasks: Iterable[int], version: str, deadline_s: float) -> None:
        """Raises TimeoutError naming how many are missing."""
        wanted = set(tasks)

        def missing() -> str:
            return f"{len(wanted - self.stored(version))} of {len(wanted)} predictions"

        wait_until(lambda: wanted <= self.stored(version), deadline_s, missing, self.log_tails)

    def wait_stored_count(self, count: int, version: str, deadline_s: float = 60) -> None:
        """Until the work is so far along."""
        wait_until(lambda: len(self.stored(version)) >= count, deadline_s, f"the first {count}", self.log_tails)

    def doubles(self) -> int:
        return sum(count - 1 for count in list(self.label_studio.stored.values()))

    def is_settled(self) -> bool:
        """Whether nothing is open, queued, held or delayed any more."""
        waiting = sum(queue_depths(self.client, self.settings.queue_shards).values())
        held = self.client.hlen(UNACKED_KEY)
        return not (waiting or held or self.records.open_count() or Delayed(self.client).count())

    def wait_settled(self, deadline_s: float) -> None:
        wait_until(self.is_settled, deadline_s, "everything to settle", self.log_tails)


def wait_until(is_true: Callable[[], bool], deadline_s: float, what: str | Callable[[], str],
               explain: Callable[[], str] = lambda: "") -> None:  # fmt: skip
    """Raises TimeoutError. A Redis that is just away is asked again."""
    end = time.monotonic() + deadline_s
    while not _holds(is_true):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s:g} s for {what if isinstance(what, str) else what()}\n{explain()}")
        time.sleep(POLL_S)


def _holds(is_true: Callable[[], bool]) -> bool:
    try:
        return is_true()
    except redis.RedisError:
        return False


def _tasks(tasks: Iterable[int], project: int, images: Mapping[int, str]) -> list[dict[str, object]]:
    plain = image_uri()
    return [{"id": task, "project": project, "data": {"image": images.get(task, plain)}} for task in tasks]


def _say_nothing(_: str) -> None:
    """What `groundcrew up` would tell its terminal is in the logs."""
