"""Storing a version so that a crash at any point leaves all of it or nothing, and finding damage later.

Called by: contract.stores. Must not import: torch, fsspec.
Files are copied into a directory beside, each synced, checksums.json after them and card.json last; one rename makes
them a version. What a killed process leaves behind has a name of its own and is swept up a day later.
Example: `publish_folder(Path("work/out"), Path("models/versions"), "tiny-shapes-p3-1", b"{...}")`
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import CheckpointRefused, RegistryError

CARD = "card.json"
CHECKSUMS = "checksums.json"
NEEDED = ("config.py", "model.safetensors")
UNFINISHED = ".unfinished-"  #: prefix of directories and files that no rename has made real yet
SWEEP_AFTER_S = 24 * 3600
CHUNK_BYTES = 1024**2


class Disk:
    """Every change that publishing makes to a disk. Tests bring one that fails at its nth step."""

    def copy(self, source: Path, target: Path) -> str:
        """Returns the SHA-256 of what was written."""
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as read, target.open("xb") as write:
            while chunk := read.read(CHUNK_BYTES):
                digest.update(chunk)
                write.write(chunk)
            _sync(write.fileno(), write.flush)
        return digest.hexdigest()

    def write(self, target: Path, body: bytes) -> None:
        with target.open("xb") as write:
            write.write(body)
            _sync(write.fileno(), write.flush)

    def rename(self, old: Path, new: Path) -> None:
        """Atomic; a directory replaces nothing, a file replaces a file."""
        os.replace(old, new)

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file. Atomic; raises FileExistsError where the name is taken."""
        os.link(old, new)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in it survive a power cut."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def publish_folder(source: Path, versions: Path, ref: str, card: bytes, disk: Disk) -> None:
    """Make `source` the version `ref`. Raises OSError; FileExistsError where there is one of this name."""
    target = versions / ref
    if target.exists():
        raise FileExistsError(errno.EEXIST, "File exists", str(target))
    versions.mkdir(parents=True, exist_ok=True)
    _sweep(versions)
    beside = versions / f"{UNFINISHED}{ref}-{secrets.token_hex(4)}"
    try:
        _fill(source, beside, card, disk)
        disk.rename(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    disk.sync_folder(versions)


def _fill(source: Path, target: Path, card: bytes, disk: Disk) -> None:
    target.mkdir()
    checksums = {name: disk.copy(source / name, target / name) for name in list_files(source)}
    disk.write(target / CHECKSUMS, dump_checksums(checksums))
    disk.write(target / CARD, card)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        disk.sync_folder(folder)


def replace_file(path: Path, body: bytes, disk: Disk) -> None:
    """The old content or the new, whatever happens meanwhile. Raises OSError."""
    with _written_beside(path, body, disk) as beside:
        disk.rename(beside, path)
    disk.sync_folder(path.parent)


def create_file(path: Path, body: bytes, disk: Disk) -> bool:
    """The whole content under a new name; False, and nothing is changed, where the name is taken. Raises OSError."""
    try:
        with _written_beside(path, body, disk) as beside:
            disk.link(beside, path)
    except FileExistsError:
        return False
    disk.sync_folder(path.parent)
    return True


@contextmanager
def _written_beside(path: Path, body: bytes, disk: Disk) -> Iterator[Path]:
    """The whole content in a file of its own in the same folder; what is left of it afterwards goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{path.name}-{secrets.token_hex(4)}")
    try:
        disk.write(beside, body)
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def list_files(source: Path) -> list[str]:
    """Names of the files that make a version, card and checksums left out. Raises RegistryError."""
    found = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise RegistryError(f"{source} is no model version: {' and '.join(missing)} missing")
    return [name for name in found if name not in (CARD, CHECKSUMS)]


def dump_checksums(checksums: dict[str, str]) -> bytes:
    return json.dumps(checksums, indent=1, sort_keys=True).encode()


def read_checksums(body: bytes) -> dict[str, str]:
    """SHA-256 by file name. Raises CheckpointRefused."""
    try:
        found = json.loads(body)
        return {str(name): str(digest) for name, digest in found.items()}
    except (ValueError, AttributeError):
        raise CheckpointRefused(f"{CHECKSUMS} is damaged; restore the version from a backup") from None


def find_damage(folder: Path) -> str | None:
    """What is wrong with a version's files, in words; None when every checksum is right."""
    try:
        checksums = read_checksums((folder / CHECKSUMS).read_bytes())
    except OSError:
        return f"{CHECKSUMS} cannot be read"
    if unknown := [name for name in NEEDED if name not in checksums]:
        return f"{unknown[0]} has no checksum"
    for name, checksum in checksums.items():
        try:
            if hash_file(folder / name) != checksum:
                return f"{name} differs from its checksum"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def hash_file(path: Path) -> str:
    """SHA-256, in hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(versions: Path) -> None:
    """Remove what killed publishers left. A living one is younger than a day."""
    for leftover in _older_than(versions, time.time() - SWEEP_AFTER_S):
        shutil.rmtree(leftover, ignore_errors=True)


def _older_than(versions: Path, unix_s: float) -> Iterator[Path]:
    for path in versions.glob(f"{UNFINISHED}*"):
        if path.stat().st_mtime < unix_s:
            yield path
