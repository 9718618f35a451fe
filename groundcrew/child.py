"""A child process that writes to a log file and is stopped together with everything it started.

Called by: groundcrew/label_studio/server.py, groundcrew/demo.py and the service tests.
Must not import: anything outside the standard library.
Example: child = Child.start(["label-studio", "start"], log_path=Path("ls.log")); child.stop()
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO

#: What a program needs to run at all. Anything else (LABEL_STUDIO_HOST, PORT, DEBUG ...) would change how it behaves.
_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
_PR_SET_PDEATHSIG = 1  #: linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


def bare_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The few variables every program needs, plus `extra`; settings of the caller's shell do not leak in."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | dict(extra or {})


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """One running program, the leader of a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path | None) -> None:
        self._process = process
        self.log_path = log_path

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        log_path: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        when_we_die: signal.Signals | None = None,
        pass_fds: Sequence[int] = (),
    ) -> "Child":
        """Starts `command` in a new process group; both its output streams go to `log_path`, or to ours.

        `when_we_die` reaches it when the calling thread ends, even by kill -9 (Linux). `pass_fds` stay open in it.
        Raises OSError if the program does not exist or cannot run.
        """
        with _open_log(log_path) as log:
            process = subprocess.Popen(
                command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, pass_fds=pass_fds,
                preexec_fn=None if when_we_die is None else _dying_wish(when_we_die),
            )  # fmt: skip
        return cls(process, log_path)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while the program runs."""
        return self._process.poll()

    def log_text(self) -> str:
        """All it wrote so far; empty when it writes to our streams."""
        if self.log_path is None:
            return ""
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log, for an error message."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def stop(self, *, grace_s: float = 15.0, politely: signal.Signals = signal.SIGTERM) -> int:
        """Asks the whole group to end, insists after `grace_s` (SIGKILL), and returns the leader's exit code."""
        self._signal_group(politely)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        # The leader may be gone while a grandchild still holds the port or the database.
        self._signal_group(signal.SIGKILL)
        return self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _dying_wish(number: signal.Signals) -> Callable[[], None]:
    """What the child does between fork and exec; the wish survives the exec."""
    parent_pid = os.getpid()

    def ask() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))
            if os.getppid() != parent_pid:  # it died before we asked
                os._exit(1)

    return ask


def _open_log(log_path: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    if log_path is None:
        return nullcontext()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    return log_path.open("ab")
