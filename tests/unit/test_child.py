"""A child process is stopped with all it started, and its log can be read.

Called by: pytest.
Must not import: anything but groundcrew/child.py.
Example: .venv/bin/python -m pytest tests/unit/test_child.py
"""

import os
import sys
import time
from pathlib import Path

from groundcrew.child import Child, bare_environment

WAIT_S = 60.0


def wait_for(condition) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_at, "waited too long"
        time.sleep(0.01)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def start_with_handler(handler: str, folder: Path) -> Child:
    """A program that treats SIGTERM as `handler` says and is ready for it."""
    setup = f"import signal, sys; signal.signal(signal.SIGTERM, {handler})"
    code = f"{setup}; print('ready', flush=True)\nwhile True: signal.pause()"
    child = Child.start(python(code), log_path=folder / "log")
    wait_for(lambda: "ready" in child.log_text())
    return child


def is_gone(pid: int) -> bool:
    """True for a process that ended, also while nobody has collected its exit code."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_stop_ends_the_grandchildren_too(tmp_path):
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    child = Child.start(python(code), log_path=tmp_path / "log")
    wait_for(lambda: child.log_text().endswith("\n"))
    grandchild = int(child.log_text())

    child.stop()

    wait_for(lambda: is_gone(grandchild))


def test_stop_insists_when_a_program_ignores_the_polite_signal(tmp_path):
    child = start_with_handler("signal.SIG_IGN", tmp_path)

    assert child.stop(grace_s=0.1) == -9


def test_stop_lets_a_program_clean_up_and_reports_its_exit_code(tmp_path):
    child = start_with_handler("lambda *_: sys.exit(3)", tmp_path)

    assert child.stop() == 3
    assert child.stop() == 3  # stopping twice is harmless


def test_the_log_holds_both_streams_and_its_tail_the_last_lines(tmp_path):
    code = "import sys; print('out', flush=True); print('a', 'b', 'c', sep='\\n', file=sys.stderr)"
    child = Child.start(python(code), log_path=tmp_path / "deep" / "log")
    wait_for(lambda: child.exit_code is not None)

    assert child.log_text().split() == ["out", "a", "b", "c"]
    assert child.log_tail(2) == "b\nc"


def test_settings_of_the_callers_shell_do_not_leak_into_a_bare_environment(monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_HOST", "http://elsewhere")

    environment = bare_environment({"PORT": "1"})

    assert "LABEL_STUDIO_HOST" not in environment
    assert environment["PORT"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
