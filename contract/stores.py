"""Where versions and pointers lie: a directory on a shared volume, or any fsspec URL such as s3://bucket/models.

Called by: contract.registry. Must not import: torch. fsspec is imported when a URL is opened, not before.
Both keep the same promise: a version exists when its card.json does, and that is written after all else.
Example: `open_store(settings).publish(folder, "tiny-shapes-p3-1", card)`
"""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
from pathlib import Path
from typing import Any, Protocol

from contract.buckets import Bucket
from contract.errors import CheckpointRefused, RegistryError
from contract.pointers import Pointers
from contract.publish import (
    CARD,
    CHECKSUMS,
    UNFINISHED,
    Disk,
    create_file,
    dump_checksums,
    find_damage,
    hash_file,
    list_files,
    publish_folder,
    read_checksums,
    replace_file,
)
from contract.settings import Settings

log = logging.getLogger(__name__)


class Store(Protocol):
    """What the registry needs. All but `folder` may raise RegistryError."""

    def refs(self) -> list[str]: ...

    def card(self, ref: str) -> bytes | None: ...

    def read(self, ref: str, name: str) -> bytes | None:
        """One small file of a version, such as a picture, without fetching the rest; None where it has none."""

    def publish(self, source: Path, ref: str, card: bytes) -> None: ...

    def folder(self, ref: str) -> Path:
        """Where the files are, or will be after fetch()."""

    def fetch(self, ref: str) -> None:
        """Bring the files to this machine. Raises CheckpointRefused when one differs from its checksum."""

    def pointer(self, project_id: int, *, fresh: bool) -> bytes | None: ...

    def point(self, project_id: int, body: bytes) -> None: ...

    def change(self, project_id: int, generation: int) -> bytes | None:
        """The pointer that this change of a project led to; None where nobody has made it yet."""

    def claim_change(self, project_id: int, generation: int, body: bytes) -> bool:
        """Make a change. False where another process made this one first, however close behind."""


def open_store(settings: Settings) -> Store:
    if not settings.model_dir_is_remote:
        return FolderStore(settings.local_model_dir)
    return RemoteStore(*open_url(settings.model_dir), cache_dir=settings.model_cache_dir)


def open_url(url: str) -> tuple[Any, str]:
    """The file system behind an fsspec URL, and the path in it. Raises RegistryError."""
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise RegistryError(f"MODEL_DIR: {url} cannot be opened: {error}") from None
    return filesystem, str(root)


class FolderStore:
    """Versions in a directory that all processes see."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._versions = root / "versions"
        self._projects = root / "projects"
        self._disk = disk or Disk()

    def refs(self) -> list[str]:
        return sorted(card.parent.name for card in self._versions.glob(f"[!.]*/{CARD}"))

    def card(self, ref: str) -> bytes | None:
        return self.read(ref, CARD)

    def read(self, ref: str, name: str) -> bytes | None:
        return _read(self._versions / ref / name)

    def publish(self, source: Path, ref: str, card: bytes) -> None:
        try:
            publish_folder(source, self._versions, ref, card, self._disk)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise RegistryError(_exists(ref)) from None
            raise RegistryError(_cannot_write(f"version {ref}", error)) from error

    def folder(self, ref: str) -> Path:
        return self._versions / ref

    def fetch(self, ref: str) -> None:
        if damage := find_damage(self.folder(ref)):
            raise CheckpointRefused(f"version {ref} is damaged: {damage}; roll back, or restore it from a backup")

    def pointer(self, project_id: int, *, fresh: bool) -> bytes | None:
        return _read(self._pointer_path(project_id))

    def point(self, project_id: int, body: bytes) -> None:
        try:
            replace_file(self._pointer_path(project_id), body, self._disk)
        except OSError as error:
            raise RegistryError(_cannot_write("the current version", error)) from error

    def change(self, project_id: int, generation: int) -> bytes | None:
        return _read(self._change_path(project_id, generation))

    def claim_change(self, project_id: int, generation: int, body: bytes) -> bool:
        try:
            return create_file(self._change_path(project_id, generation), body, self._disk)
        except OSError as error:
            raise RegistryError(_cannot_write("the current version", error)) from error

    def _pointer_path(self, project_id: int) -> Path:
        return self._projects / str(project_id) / "current.json"

    def _change_path(self, project_id: int, generation: int) -> Path:
        return self._projects / str(project_id) / "changes" / f"{generation}.json"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RegistryError(f"MODEL_DIR: {path} cannot be read: {error.strerror}") from error


def _exists(ref: str) -> str:
    return f"version {ref} exists already, and versions never change; choose another name"


def _cannot_write(what: str, error: Exception, advice: str = "") -> str:
    problem = getattr(error, "strerror", None) or error
    return f"MODEL_DIR: {what} cannot be written: {problem}{advice or '; free space or fix access, then try again'}"


class RemoteStore:
    """Versions behind an fsspec URL. Missing keys or a lost connection are no OSError in what its client raises.

    There is no rename, so card.json is uploaded last. A job's lease keeps two publishers of one version apart;
    without it their files could mix, which the checksums would refuse.
    """

    def __init__(self, filesystem: Any, root: str, *, cache_dir: Path) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._bucket = Bucket(filesystem, self._root)
        self._cache_dir = cache_dir / "versions"
        self._pointers = Pointers(lambda project_id: self._get(self._pointer_path(project_id)))

    def refs(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.glob(f"{self._root}/versions/*/{CARD}")
        except Exception as error:
            raise RegistryError(f"MODEL_DIR: {self._root} cannot be listed: {self._bucket.explain(error)}") from error
        if not found:
            self._bucket.need()
        return sorted(str(path).split("/")[-2] for path in found)

    def card(self, ref: str) -> bytes | None:
        return self.read(ref, CARD)

    def read(self, ref: str, name: str) -> bytes | None:
        return self._get(f"versions/{ref}/{name}")

    def publish(self, source: Path, ref: str, card: bytes) -> None:
        if self.card(ref) is not None:
            raise RegistryError(_exists(ref))
        checksums = {}
        for name in list_files(source):
            checksums[name] = hash_file(source / name)
            self._put(f"versions/{ref}/{name}", source / name)
        self._put(f"versions/{ref}/{CHECKSUMS}", dump_checksums(checksums))
        self._put(f"versions/{ref}/{CARD}", card)

    def folder(self, ref: str) -> Path:
        return self._cache_dir / ref

    def fetch(self, ref: str) -> None:
        folder = self.folder(ref)
        if folder.exists() and (damage := find_damage(folder)):
            log.warning("the local copy of version %s is damaged (%s); fetching it again", ref, damage)
            shutil.rmtree(folder)
        if not folder.exists():
            self._download(ref, folder)

    def _download(self, ref: str, folder: Path) -> None:
        beside = folder.with_name(f"{UNFINISHED}{ref}-{secrets.token_hex(4)}")
        try:
            self._download_files(ref, beside)
            if damage := find_damage(beside):
                raise CheckpointRefused(f"version {ref} is damaged: {damage}; roll back, or restore it from a backup")
            if not folder.exists():
                beside.rename(folder)
        except CheckpointRefused:
            raise
        except Exception as error:
            if not folder.exists():  # else another process was faster
                said = self._bucket.explain(error)
                raise RegistryError(f"version {ref} cannot be fetched from MODEL_DIR: {said}") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _download_files(self, ref: str, target: Path) -> None:
        remote = f"{self._root}/versions/{ref}"
        body = self._fs.cat_file(f"{remote}/{CHECKSUMS}")
        for name in (*read_checksums(body), CHECKSUMS, CARD):
            path = (target / name).resolve()
            if target.resolve() not in path.parents:
                raise CheckpointRefused(f"version {ref} names a file outside of itself: {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{remote}/{name}", str(path))

    def pointer(self, project_id: int, *, fresh: bool) -> bytes | None:
        return self._pointers.get(project_id, fresh=fresh)

    def point(self, project_id: int, body: bytes) -> None:
        self._put(self._pointer_path(project_id), body)
        self._pointers.forget(project_id)

    def change(self, project_id: int, generation: int) -> bytes | None:
        return self._get(self._change_path(project_id, generation))

    def claim_change(self, project_id: int, generation: int, body: bytes) -> bool:
        """`mode="create"` is a conditional PUT (If-None-Match: *) on S3, and its like on the other clouds."""
        try:
            self._put(self._change_path(project_id, generation), body, mode="create")
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _pointer_path(project_id: int) -> str:
        return f"projects/{project_id}/current.json"

    @staticmethod
    def _change_path(project_id: int, generation: int) -> str:
        return f"projects/{project_id}/changes/{generation}.json"

    def _get(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            self._bucket.need()
            return None
        except Exception as error:
            said = self._bucket.explain(error)
            raise RegistryError(f"MODEL_DIR: {self._root}/{name} cannot be read: {said}") from error

    def _put(self, name: str, content: Path | bytes, mode: str = "overwrite") -> None:
        path = f"{self._root}/{name}"
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self._fs.pipe_file(path, content, mode=mode)
            else:
                self._fs.put_file(str(content), path)
        except FileExistsError:
            raise
        except Exception as error:
            raise RegistryError(_cannot_write(name, error, self._bucket.advice(error))) from error
