"""A Label Studio server of its own: a subprocess on 127.0.0.1 with its own data folder and a fresh administrator.

Called by: groundcrew/demo.py and tests/services/conftest.py.
Must not import: backend, worker, or Label Studio itself (it lives in another virtual environment).
Example: with LabelStudioServer.start(venv_dir=venv, data_dir=tmp, say=print) as server: open(server.url)
"""

import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType

from contract.errors import GroundcrewError
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.label_studio import LABEL_STUDIO_VERSION
from groundcrew.label_studio.venv import install_label_studio

#: Not a secret: the server listens on 127.0.0.1 and its data are made for a demo or a test.
ADMIN_EMAIL = "admin@groundcrew.example"
ADMIN_PASSWORD = "groundcrew-demo"  # noqa: S105

#: A first start migrates the database: 23 s on two cores, longer on a busy machine.
START_DEADLINE_S = 300.0

_ENVIRONMENT = {
    # Label Studio refuses backends and webhooks on this machine unless both guards are off.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    # Nothing about a demo or a test leaves this machine.
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "PYTHONUNBUFFERED": "1",
}
_LISTENING = re.compile(r"Starting development server at (http://127\.0\.0\.1:\d+)/")


class ServerDidNotStart(GroundcrewError):
    """Label Studio ended or stayed silent; the message holds the end of its log."""


class LabelStudioServer:
    """A running Label Studio. Use it as a context manager, or call `stop`."""

    def __init__(self, child: Child, url: str) -> None:
        self._child = child
        self.url = url

    @classmethod
    def start(
        cls,
        *,
        venv_dir: Path,
        data_dir: Path,
        say: Callable[[str], None],
        port: int = 0,
        deadline_s: float = START_DEADLINE_S,
    ) -> "LabelStudioServer":
        """Installs Label Studio if needed, starts it and waits until it answers. `port` 0 = any free one.

        Raises InstallError, or ServerDidNotStart when it is not healthy after `deadline_s`.
        """
        program = install_label_studio(venv_dir, say=say)
        fresh_database = venv_dir / f"fresh-{LABEL_STUDIO_VERSION}.sqlite3"
        is_fresh = _prepare_data_dir(data_dir, fresh_database, say)
        child = Child.start(
            _command(program, data_dir, port or free_port()),
            env=bare_environment(_ENVIRONMENT),
            log_path=data_dir / "label-studio.log",
        )
        try:
            url = _wait_until_healthy(child, deadline_s)
        except BaseException:
            child.stop()
            raise
        if is_fresh:
            _copy_database(data_dir / "label_studio.sqlite3", fresh_database)
        return cls(child, url)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log_path(self) -> Path:
        return self._child.log_path

    def stop(self) -> None:
        self._child.stop()

    def __enter__(self) -> "LabelStudioServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _command(program: Path, data_dir: Path, port: int) -> list[str]:
    return [
        str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port),
        "--data-dir", str(data_dir.resolve()), "--username", ADMIN_EMAIL, "--password", ADMIN_PASSWORD,
    ]  # fmt: skip


def _prepare_data_dir(data_dir: Path, fresh_database: Path, say: Callable[[str], None]) -> bool:
    """Lays the migrated database of an earlier first start into an empty folder; True if there was none to lay."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database = data_dir / "label_studio.sqlite3"
    if database.exists():
        return False
    if fresh_database.exists():
        _copy_database(fresh_database, database)
        return False
    say("Starting Label Studio; its first start creates the database and takes up to a minute ...")
    return True


def _copy_database(source: Path, target: Path) -> None:
    """Copies with SQLite's backup, which is consistent while a server has the file open; never leaves half a file."""
    half = target.with_suffix(f".{os.getpid()}.half")
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(half)) as writer:
        reader.backup(writer)
    half.replace(target)


def _wait_until_healthy(child: Child, deadline_s: float) -> str:
    """The URL from the log: Label Studio moves to the next port if ours was taken meanwhile."""
    ends_at = time.monotonic() + deadline_s
    while time.monotonic() < ends_at:
        if child.exit_code is not None:
            raise ServerDidNotStart(f"Label Studio ended with code {child.exit_code}:\n{child.log_tail()}")
        listening = _LISTENING.search(child.log_text())
        if listening and _is_healthy(listening.group(1)):
            return listening.group(1)
        time.sleep(0.2)
    raise ServerDidNotStart(f"Label Studio did not answer within {deadline_s:.0f} s:\n{child.log_tail()}")


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
