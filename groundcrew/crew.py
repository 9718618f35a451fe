"""A `groundcrew up` of our own, as a subprocess: started in a folder that keeps its state, stopped cleanly.

Called by: groundcrew/demo/run.py, docs/stage.py and tests/services.
Must not import: backend, worker.
Example: with Crew.start(folder, {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": token}) as crew: crew.url
"""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import redis

from contract.errors import GroundcrewError
from contract.heartbeats import alive
from groundcrew.child import Child, bare_environment, free_port

START_DEADLINE_S = 300.0
#: `up` lets running images finish, part after part; cutting that short would orphan its own children.
STOP_GRACE_S = 150.0


class CrewDidNotStart(GroundcrewError):
    """`groundcrew up` ended or was not ready in time; the message holds the end of its log."""

    code = "crew_did_not_start"


class Crew:
    """A running `groundcrew up`. Use it as a context manager, or call `stop`; stopping twice is harmless."""

    def __init__(self, child: Child, folder: Path, url: str) -> None:
        self._child = child
        self.folder = folder  #: its working directory, where `doctor` and `jobs` find it
        self.url = url

    @classmethod
    def start(
        cls, folder: Path, settings: Mapping[str, str], *, port: int = 0, deadline_s: float = START_DEADLINE_S
    ) -> "Crew":
        """Starts it with `folder` as working directory and waits until a worker has its model loaded. `port` 0: any.

        Nothing of the caller's environment but PATH and the like is passed on. Raises CrewDidNotStart.
        """
        port = port or free_port()
        child = Child.start(
            [sys.executable, "-m", "groundcrew", "up", "--port", str(port)],
            env=bare_environment(settings),
            cwd=folder,
            log_path=folder / "groundcrew.log",
        )
        crew = cls(child, folder, f"http://127.0.0.1:{port}")
        try:
            crew._wait_until_ready(deadline_s)
        except BaseException:
            crew.stop()
            raise
        return crew

    @property
    def pid(self) -> int:
        """Of `groundcrew up` itself."""
        return self._child.pid

    def log_tail(self) -> str:
        return self._child.log_tail()

    def stop(self) -> int:
        """Lets running images finish and returns the exit code."""
        return self._child.stop(grace_s=STOP_GRACE_S)

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self, deadline_s: float) -> None:
        ends_at = time.monotonic() + deadline_s
        # The API is asked last: each question is a line in the log, whose tail must keep the reason for a failed start.
        while not ({"predict", "write"} <= self._roles() and self._answers()):
            if self._child.exit_code is not None:
                raise CrewDidNotStart(f"groundcrew up ended with {self._child.exit_code}:\n{self._child.log_tail()}")
            if time.monotonic() > ends_at:
                raise CrewDidNotStart(f"groundcrew up was not ready in {deadline_s:.0f} s:\n{self._child.log_tail()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def _roles(self) -> set[object]:
        """What its living processes do; empty before they beat for the first time."""
        try:
            state = json.loads((self.folder / ".groundcrew" / "up.json").read_text(encoding="utf-8"))
            with redis.Redis.from_url(state["redis_url"], decode_responses=True) as client:
                return {process["role"] for process in alive(client)}
        except (FileNotFoundError, redis.ConnectionError):  # not written yet, or `up` is on its way out
            return set()
