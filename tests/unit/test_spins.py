"""PyTorch's threads leave the processors to the threads that sample.

Called by: pytest. Must not import: torch.
Example: pytest tests/unit/test_spins.py
"""

import os
import subprocess
import sys

LOOK = """
import os, sys
import worker.app, groundcrew.predict
from contract.settings import read_settings
from worker.models import load_mmgdino
assert "torch" not in sys.modules, "torch has read its environment before"
load_mmgdino(read_settings({}))
print(os.environ["GOMP_SPINCOUNT"])
"""


def spins(**given: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    return subprocess.run([sys.executable, "-c", LOOK], env=environment, text=True, check=True,
                          stdout=subprocess.PIPE).stdout.strip()  # fmt: skip


def test_threads_of_torch_sleep_soon_because_it_is_said_before_torch_is_loaded():
    assert spins() == "20000"


def test_what_the_user_has_set_stays():
    assert spins(GOMP_SPINCOUNT="7") == "7"
