"""This machine: where the repository lies, and what to do about a program that is not installed.

Called by: tests/services.
Must not import: anything of ours.
Example: program = shutil.which("chromium") or absent("chromium")
"""

import os
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def absent(what: str) -> NoReturn:
    """A laptop may lack a program; in CI a skipped test would look like a passed one."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must run these tests")
    pytest.skip(f"{what} is missing")
