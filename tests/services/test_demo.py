"""`groundcrew demo` as a newcomer runs it, and as Ctrl-C ends it.

Called by: pytest.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_demo.py
"""

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from groundcrew.child import Child, bare_environment
from groundcrew.crew import STOP_GRACE_S
from tests.services.machine import REPOSITORY
from tests.services.waiting import wait_until

#: A busy machine with two cores needs more than a minute.
DEADLINE_S = 480.0


def start_demo(folder: Path, *flags: str) -> Child:
    """Everything it makes lies below `folder`, so that what it leaves running can be found."""
    return Child.start(
        [sys.executable, "-m", "groundcrew", "demo", "--out", str(folder / "out"), *flags],
        env=bare_environment({"TMPDIR": str(folder)}),
        cwd=REPOSITORY,
        log_path=folder / "demo.log",
    )


def wait_for(demo: Child, condition: Callable[[], bool]) -> None:
    """Returns when the demo has got there, or has ended."""
    wait_until(lambda: condition() or demo.exit_code is not None, "the demo", demo.log_tail, deadline_s=DEADLINE_S)


def wait_for_the_end(folder: Path) -> None:
    """Nothing is left running; a process that was killed may need a moment to go."""
    wait_until(lambda: left_running(folder) == [], "the end of all parts", lambda: f"{left_running(folder)}")


def left_running(folder: Path) -> list[str]:
    """Command lines of the processes that work in or on `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
            where = os.readlink(process / "cwd")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or not ours
        if str(folder) in command or where.startswith(str(folder)):
            found.append(command)
    return found


def test_once_labels_every_image_and_says_so_in_its_last_line(label_studio_server, tmp_path):
    demo = start_demo(tmp_path, "--once")
    wait_for(demo, lambda: False)

    assert demo.exit_code == 0, demo.log_tail(40)
    report = json.loads(demo.log_text().splitlines()[-1])
    assert (report["label_studio"], report["tasks"], report["predicted"]) == ("1.23.2", 24, 24)
    assert report["duplicates"] == 0
    assert report["recall_iou50"] >= 0.9
    wait_for_the_end(tmp_path)
    with Image.open(report["picture"]) as picture:
        assert picture.width > 1000


def test_ctrl_c_ends_a_demo_that_stays_up_and_leaves_nothing_running(label_studio_server, tmp_path):
    demo = start_demo(tmp_path)
    wait_for(demo, lambda: "Ctrl-C" in demo.log_text())
    url = next(word for word in demo.log_text().split() if word.startswith("http://"))
    assert urllib.request.urlopen(f"{url}/health", timeout=60).status == 200
    assert "password" in demo.log_text()

    exit_code = demo.stop(politely=signal.SIGINT, grace_s=STOP_GRACE_S)

    assert exit_code == 0, demo.log_tail(40)
    wait_for_the_end(tmp_path)


def test_a_demo_that_is_ended_while_it_starts_leaves_nothing_running(label_studio_server, tmp_path):
    demo = start_demo(tmp_path)
    wait_for(demo, lambda: "2/5" in demo.log_text())

    demo.stop(politely=signal.SIGTERM, grace_s=STOP_GRACE_S)

    wait_for_the_end(tmp_path)
