"""Images of annotated tasks on this disk: each file once, named by its content, checked that it can be decoded.

Called by: worker.export. Must not import: torch, Celery.
Example: `ImageCache(settings.local_model_dir / ".images", fetcher).get("/data/upload/1/a.png", task_id=7).file_name`
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from contract.errors import ImageUnavailable
from worker.addresses import Fetcher
from worker.files import atomic_file
from worker.images import decode_image


class CachedImage(NamedTuple):
    """One image file that can be decoded."""

    file_name: str  #: below the cache's directory: two digits of the sha256 of the file, a slash, all of it
    width_px: int  #: of the upright image
    height_px: int


@dataclass(frozen=True)
class ImageCache:
    """Safe between threads and processes: a file never changes, and appears whole or not at all."""

    directory: Path
    fetcher: Fetcher

    def get(self, address: str, *, task_id: int = 0) -> CachedImage:
        """Fetch, check and keep one image. Uploads, which Label Studio never changes, are not fetched again.

        Raises ImageError: this image cannot be used. OSError: it cannot be kept, as when the disk is full.
        """
        is_upload = address.startswith("/data/upload/")
        known = self._look_up(address) if is_upload else None
        if known is not None:
            return known
        image = self._keep(self._fetch(address, task_id))
        if is_upload:
            with atomic_file(self._record(address)) as file:
                file.write(json.dumps(image).encode())
        return image

    def _fetch(self, address: str, task_id: int) -> bytes:
        try:
            return self.fetcher.fetch(address, task_id=task_id)
        except ImageUnavailable:  # one lost connection must not cost an annotated image
            return self.fetcher.fetch(address, task_id=task_id)

    def _keep(self, data: bytes) -> CachedImage:
        height_px, width_px = decode_image(data, limit_px=self.fetcher.settings.image_limit_px).shape[:2]
        digest = hashlib.sha256(data).hexdigest()
        image = CachedImage(f"{digest[:2]}/{digest}", width_px, height_px)
        path = self.directory / image.file_name
        if not path.exists():
            with atomic_file(path) as file:
                file.write(data)
        return image

    def _look_up(self, address: str) -> CachedImage | None:
        try:
            image = CachedImage(*json.loads(self._record(address).read_bytes()))
        except FileNotFoundError:
            return None
        return image if (self.directory / image.file_name).exists() else None

    def _record(self, address: str) -> Path:
        """Where it is written down what an upload turned out to be."""
        place = f"{self.fetcher.settings.label_studio_url} {address}"
        return self.directory / "uploads" / f"{hashlib.sha256(place.encode()).hexdigest()}.json"
