"""Reads an image that lies on this disk, below a directory of the operator's, and nothing outside of it.

Called by: worker.addresses. Must not import: torch, Celery, Pillow.
Example: `read_below(settings.local_files_root, "cats/1.png", limit_bytes=2**26) -> bytes`
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from contract.errors import ImageForbidden, ImageNotFound, ImageTooLarge


def read_below(root: Path, relative: str, *, limit_bytes: int) -> bytes:
    """The file's bytes. Neither `..` nor a symbolic link leads out of `root`, and only regular files are read.

    Raises ImageForbidden, ImageNotFound, ImageTooLarge.
    """
    try:
        path = _inside(root, relative)
        # NOFOLLOW: the checked path has no link in its last part; NONBLOCK: opening a pipe must not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ImageNotFound(f"there is no file {Path(relative).name} in the configured directory") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageForbidden(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ImageForbidden(f"{Path(path).name} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(min(status.st_size, limit_bytes) + 1)  # a buffer for the whole limit would be dear
        if len(data) > status.st_size:  # it grows
            data += file.read(max(0, limit_bytes + 1 - len(data)))
    if len(data) > limit_bytes:
        raise ImageTooLarge(f"the file is larger than IMAGE_LIMIT_BYTES={limit_bytes}")
    return data


def _inside(root: Path, relative: str) -> str:
    below = relative.lstrip("/")
    path = os.path.join(root, below)
    if not _is_plain(str(root), below):
        path = os.path.realpath(path)
        if not relative or not Path(path).is_relative_to(os.path.realpath(root)):
            raise ImageForbidden("the file lies outside the configured directory")
    return path


def _is_plain(root: str, below: str) -> bool:
    """Whether each part is a name, and none a link: what such a path names lies inside, wherever `root` is."""
    path = root
    for part in below.split("/"):
        if part in ("", ".", ".."):
            return False
        path = f"{path}/{part}"
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return False
    return True
