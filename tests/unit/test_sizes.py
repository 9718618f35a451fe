"""No file of ours is longer than one can take in at once.

Run by: make check, pytest. Must not import: anything of ours.
Example: pytest tests/unit/test_sizes.py
"""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_LINES = 300


@pytest.mark.parametrize("folder", ["contract", "backend", "worker", "groundcrew", "benchmarks"])
def test_files_are_short(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (REPOSITORY / folder).rglob("*.py")}
    assert lengths, f"there is no file in {folder}"
    assert {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
