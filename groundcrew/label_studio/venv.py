"""The virtual environment that holds Label Studio, whose pinned packages differ from ours.

Called by: groundcrew/label_studio/server.py.
Must not import: anything heavier than contract/errors.py.
Example: executable = install_label_studio(Path(".venv-label-studio"), say=print)
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from contract.errors import GroundcrewError
from groundcrew.label_studio import LABEL_STUDIO_VERSION


class InstallError(GroundcrewError):
    """Label Studio could not be installed; the message holds the end of pip's output and the remedy."""


def install_label_studio(venv_dir: Path, *, say: Callable[[str], None]) -> Path:
    """Returns the `label-studio` program in `venv_dir`, after installing it there unless that is already done.

    Safe to call again, also after an interruption: the marker is written last, and pip continues where it stopped.
    Raises InstallError.
    """
    marker = venv_dir / f".label-studio-{LABEL_STUDIO_VERSION}-installed"
    if not marker.exists():
        say(f"Installing Label Studio {LABEL_STUDIO_VERSION} into {venv_dir} (once; one to three minutes) ...")
        _install(venv_dir)
        marker.touch()
    return venv_dir / "bin" / "label-studio"


def _install(venv_dir: Path) -> None:
    _run([sys.executable, "-m", "venv", str(venv_dir)])
    python = str(venv_dir / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", f"label-studio=={LABEL_STUDIO_VERSION}"])


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if finished.returncode != 0:
        raise InstallError(
            f"`{' '.join(command)}` failed:\n{finished.stdout[-2000:]}\n"
            "Check that this machine reaches its Python package index, then run the same command again."
        )
