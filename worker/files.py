"""Files that appear whole or not at all, whatever ends the process while they are written.

Called by: worker.dataset, worker.image_cache, worker.snapshot. Must not import: anything of ours.
Example: `with atomic_file(path) as file: file.write(data)`
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write, which takes its name only when it is complete and on the disk.

    After an exception in the block, what stood at `path` before stays, and nothing is left beside it.
    Raises OSError, as when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # the same folder: a rename must not cross disks
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
