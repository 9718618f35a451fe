"""Which images a command means: files, folders, patterns, addresses, or the tasks of a Label Studio project.

Called by: groundcrew.predict. Must not import: torch, Celery, redis, label_studio_sdk, numpy.
Example: `find_sources(["photos/", "shots/*.png", "https://example.org/a.jpg"])`
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from contract.errors import ImageUnreadable, RequestError
from contract.jobs import NewTask
from worker.addresses import Fetcher

#: What a folder is searched for. A file that is named itself may be anything that Pillow reads.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

Json = dict[str, Any]


class SourceError(RequestError):
    """What was named is no image, and leads to none."""

    code = "bad_source"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)


@dataclass(frozen=True)
class Source:
    """One image: a file of this machine, or something behind an address."""

    name: str  #: as people and COCO's file_name call it
    relative: str  #: below the folder that was named, else the file's own name
    path: Path | None = None
    address: str = ""  #: where there is no path
    task_id: int = 0  #: Label Studio's
    data: Mapping[str, object] | None = None  #: of the Label Studio task

    def read(self, fetcher: Fetcher) -> bytes:
        """The file's bytes. Raises ImageError."""
        if self.path is None:
            return fetcher.fetch(self.address, task_id=self.task_id)
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ImageUnreadable(f"the file cannot be read: {error.strerror}") from error


def find_sources(names: Iterable[str], *, besides: Path | None = None) -> list[Source]:
    """All images that the names stand for, in their order, none twice. Folders are searched with all below them.

    Args:
        names: files, folders, patterns such as "shots/**/*.png", http and https addresses.
        besides: a folder that searches leave out: the output of an earlier run.

    Raises:
        SourceError: a name leads to no image.
    """
    found: dict[str, Source] = {}
    for name in names:
        sources = list(_look_up(name, besides))
        if not sources:
            raise SourceError(name, f"leads to no image; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        for source in sources:
            found.setdefault(str(source.path.resolve()) if source.path else source.address, source)
    return list(found.values())


def _look_up(name: str, besides: Path | None) -> Iterator[Source]:
    if urlsplit(name).scheme in ("http", "https"):
        yield Source(name, _last_part(name), address=name)
        return
    path = Path(name)
    if path.is_dir():
        for image in _images_below(path, besides):
            yield Source(str(image), image.relative_to(path).as_posix(), image)
    elif path.exists():
        yield Source(name, path.name, path)
    elif glob.has_magic(name):
        for match in sorted(glob.glob(name, recursive=True)):
            yield from _look_up(match, besides)
    else:
        raise SourceError(name, "does not exist: name a file, a folder, a pattern in quotes, or an http address")


def _images_below(folder: Path, besides: Path | None) -> Iterator[Path]:
    left_out = besides.resolve() if besides else None
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        own_output = left_out is not None and folder.resolve() != left_out and path.resolve().is_relative_to(left_out)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not hidden and not own_output:
            yield path


def from_tasks(tasks: Iterable[tuple[NewTask, Mapping[str, object]]]) -> list[Source]:
    """The images of Label Studio tasks, given with the tasks' data."""
    return [
        Source(f"task {task.task_id}", f"task-{task.task_id}{_suffix(task.image)}", address=task.image,
               task_id=task.task_id, data=data)
        for task, data in tasks
    ]  # fmt: skip


def name_pictures(sources: Sequence[Source], out_dir: Path) -> list[str]:
    """A file name for each picture: the image's own, numbered where two would meet, and never one of the images."""
    originals = {source.path.resolve() for source in sources if source.path}
    taken: set[str] = set()
    names = []
    for source in sources:
        original = PurePosixPath(source.relative)
        suffix = ".jpg" if original.suffix.lower() in (".jpg", ".jpeg", ".jpe") else ".png"
        number, name = 1, f"{original.stem}{suffix}"
        # Some file systems take A.png and a.png for the same file.
        while name.lower() in taken or (out_dir / name).resolve() in originals:
            number += 1
            name = f"{original.stem}-{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def _last_part(address: str) -> str:
    return unquote(PurePosixPath(urlsplit(address).path).name) or "image"


def _suffix(address: str) -> str:
    suffix = PurePosixPath(urlsplit(address).path).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else ""
