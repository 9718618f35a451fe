"""The real label-studio-ml, in an environment that cannot hold our packages; made on first use.

Called by: tests/services/test_old_command.py, test_docs.py. Must not import: backend, worker.
Example: `subprocess.run(["label-studio-ml", "start", "backend"], env=bare_environment({"PATH": old_tool_path()}))`
"""

import os
import subprocess
import sys

from tests.services.machine import REPOSITORY, absent

#: It imports the last three without declaring them.
PACKAGES = ("label-studio-ml==1.0.9", "redis", "rq", "boto3")
VENV = REPOSITORY / ".venv-label-studio-ml"


def old_tool_path() -> str:
    """PATH as it is in that tool's activated virtual environment."""
    marker = VENV / f".{PACKAGES[0]}-installed"
    if not marker.exists():
        for command in ([sys.executable, "-m", "venv", str(VENV)], [str(VENV / "bin" / "pip"), "install", *PACKAGES]):
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                absent(f"label-studio-ml ({finished.stdout[-500:]} {finished.stderr[-500:]})")
        marker.touch()
    return f"{VENV / 'bin'}:{os.environ['PATH']}"
