"""Rows: image servers that misbehave, and model versions that cannot be stored or read.

Called by: benchmarks/faults.py. Must not import: backend, worker.
Example: `ROWS[0].run(site, 1000)`
"""

from __future__ import annotations

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
COMMAND_TIMEOUT_S = 60
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
    """A version whose file was cut short, or has a flipped bit, is not promoted; the current one stays at work."""
    version = site.setup()
    added = _models(site, f'add "{TINY}" --name other --version 9')
    assert added.returncode == 0, added.stderr
    file = site.folder / "models" / "versions" / "other-9" / "model.safetensors"
    file.chmod(0o600)
    spoil(file)
    site.announce(numbers(tasks))
    _expect_refusal(_models(site, "promote other-9 --project 1"))
    assert site.setup() == version
    return finish(site, numbers(tasks), version, time.monotonic())


def registry_full(site: Site, tasks: int) -> Outcome:
    """No file of the registry may grow beyond 512 kB, as on a full volume: nothing is published by halves."""
    version = site.setup()
    site.announce(numbers(tasks))
    _expect_refusal(_models(site, f'add "{TINY}" --name other --version 9', before="ulimit -f 512; "))
    assert "other-9" not in _models(site, "list --json").stdout
    assert site.setup() == version
    return finish(site, numbers(tasks), version, time.monotonic())


def _models(site: Site, words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = f'{before}exec "{sys.executable}" -m groundcrew models {words}'
    env = bare_environment(to_environment(site.settings)) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", command], env=env, cwd=site.folder, capture_output=True, text=True,
                          timeout=COMMAND_TIMEOUT_S)  # fmt: skip


def _expect_refusal(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0, f"it was accepted: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


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
