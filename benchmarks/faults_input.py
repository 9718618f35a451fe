"""Rows: image servers that misbehave, and model versions that cannot be stored or read.

Called by: benchmarks/faults.py. Must not import: backend, worker.
Example: `ROWS[0].run(site, 1000)`
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.faults_row import Outcome, Row, finish, numbers
from benchmarks.faults_site import ROOT, Site, wait_until
from contract.settings import to_environment
from groundcrew.child import bare_environment

BAD_IMAGES = 5
ADD_TIMEOUT_S = 60
TINY = ROOT / "groundcrew" / "zoo" / "tiny-shapes"


def bad_images(kind: str, site: Site, tasks: int) -> Outcome:
    """Five images hang, drip a byte a second, redirect in a loop, or lie about their length: they fail alone."""
    version, bad = site.setup(), numbers(tasks)[:BAD_IMAGES]
    site.announce(numbers(tasks), images={task: f"/data/upload/1/{kind}-{task}.png" for task in bad})
    began_s = time.monotonic()
    outcome = finish(site, numbers(tasks)[BAD_IMAGES:], version, began_s)
    wait_until(lambda: site.records.counts(1)["failed"] == BAD_IMAGES, 90, "the bad images to be given up")
    return outcome


def bad_version(spoil: Callable[[Path], None], site: Site, tasks: int) -> Outcome:
    """A version that is cut short or has a flipped bit is refused; the current one stays, and work goes on."""
    directory = site.folder / "spoiled"
    shutil.copytree(TINY, directory)
    spoil(directory / "model.safetensors")
    return _add_beside_work(site, tasks, directory, "")


def registry_full(site: Site, tasks: int) -> Outcome:
    """No file of the registry may grow beyond 512 kB, as on a full volume."""
    return _add_beside_work(site, tasks, TINY, "ulimit -f 512; ")


def _add_beside_work(site: Site, tasks: int, directory: Path, limit: str) -> Outcome:
    version = site.setup()
    site.announce(numbers(tasks))
    command = f'{limit}exec "{sys.executable}" -m groundcrew models add "{directory}" --name other --version 9'
    env = bare_environment(to_environment(site.settings)) | {"PYTHONPATH": str(ROOT)}
    added = subprocess.run(["bash", "-c", command], env=env, cwd=site.folder, capture_output=True, text=True,
                           timeout=ADD_TIMEOUT_S)  # fmt: skip
    assert added.returncode != 0, f"the spoiled version was accepted: {added.stdout}{added.stderr}"
    assert "Traceback" not in added.stderr, added.stderr
    assert site.setup() == version
    return finish(site, numbers(tasks), version, time.monotonic())


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


ROWS = (
    *(Row(f"image_{kind}", partial(bad_images, kind), limit_s=75, settings={"IMAGE_TIMEOUT_S": "2"})
      for kind in ("hang", "drip", "loop", "short")),
    Row("checkpoint_cut_short", partial(bad_version, _cut), limit_s=45),
    Row("checkpoint_flipped_bit", partial(bad_version, _flip), limit_s=45),
    Row("registry_volume_full", registry_full, limit_s=45),
)  # fmt: skip
