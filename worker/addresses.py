"""Fetches the bytes behind the address a Label Studio task names: upload, URL, data URI, local file, cloud object.

Called by: worker.predict. Must not import: torch, Celery, Pillow.
Label Studio's own addresses get its token; no other host ever does.
Example: `fetch(Fetcher(settings, authorize), "/data/upload/1/a.png", task_id=7) -> bytes`
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

import httpx

from contract.errors import (
    ImageError,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ImageUnavailable,
    ImageUnreadable,
)
from contract.settings import Settings

CLOUD_SCHEMES = ("s3", "gs", "azure-blob", "azure_spi", "gcswif", "s3s")  #: Label Studio has the keys
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Fetcher:
    """Where and how to fetch; `authorize()` gives fresh headers for Label Studio, or an empty mapping."""

    settings: Settings
    authorize: Callable[[], Mapping[str, str]]
    client: httpx.Client = field(default_factory=httpx.Client, repr=False)  #: keeps connections; safe between threads

    def fetch(self, address: str, *, task_id: int = 0) -> bytes:
        """The image file behind `address`, at most IMAGE_LIMIT_BYTES, within IMAGE_TIMEOUT_S seconds.

        Raises an ImageError that says what is wrong with this address; only ImageUnavailable is worth a retry.
        """
        scheme = urlsplit(address).scheme.lower()
        if scheme == "data":
            return self._limited(_decode_data_uri(address))
        if scheme in ("http", "https"):
            return self._fetch_url(address)
        if scheme in CLOUD_SCHEMES:
            return self._fetch_cloud(address, task_id)
        if scheme == "" and address.startswith("/"):
            return self._fetch_label_studio_path(address)
        raise ImageForbidden(f"images are not read from {scheme or 'relative'} addresses; use http, https, data, "
                             "an upload, a local-files address or cloud storage of Label Studio")  # fmt: skip

    def _fetch_url(self, url: str) -> bytes:
        own = self._label_studio_origin() == _origin(url)
        path = urlsplit(url)
        if own or path.path.startswith("/data/local-files/"):
            local = self._local_path(path.path, path.query)
            if local is not None:
                return self._read_file(local)
        return self._download(url, self.authorize() if own else {})

    def _fetch_label_studio_path(self, address: str) -> bytes:
        path = urlsplit(address)
        local = self._local_path(path.path, path.query)
        if local is not None:
            return self._read_file(local)
        return self._download(self._require_url() + address, self._require_authorization(address))

    def _fetch_cloud(self, address: str, task_id: int) -> bytes:
        encoded = base64.urlsafe_b64encode(address.encode()).decode()
        url = f"{self._require_url()}/tasks/{task_id}/resolve/?fileuri={encoded}"
        return self._download(url, self._require_authorization(address))

    # -- Label Studio's files on this machine ----------------------------------------------------------------------

    def _local_path(self, path: str, query: str) -> Path | None:
        """The file on this disk, where LOCAL_FILES_ROOT or LABEL_STUDIO_DATA_DIR says that it is here."""
        settings = self.settings
        if path.startswith("/data/local-files/") and settings.local_files_root is not None:
            return _inside(settings.local_files_root, parse_qs(query).get("d", [""])[0])
        if path.startswith("/data/upload/") and settings.label_studio_data_dir is not None:
            return _inside(settings.label_studio_data_dir / "media" / "upload", unquote(path[len("/data/upload/"):]))
        return None

    def _read_file(self, path: Path) -> bytes:
        try:
            if path.stat().st_size > self.settings.image_limit_bytes:
                raise self._too_large()
            return path.read_bytes()
        except FileNotFoundError:
            raise ImageNotFound(f"there is no file {path.name} in the configured directory") from None
        except OSError as error:
            raise ImageForbidden(f"{path.name} cannot be read: {error.strerror}") from None

    # -- over HTTP ---------------------------------------------------------------------------------------------------

    def _download(self, url: str, headers: Mapping[str, str]) -> bytes:
        end = time.monotonic() + self.settings.image_timeout_s
        timeout = httpx.Timeout(self.settings.image_timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            with self.client.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
                _check_status(response)
                return self._read_body(response, end)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ImageUnavailable(f"{_origin(url)} did not deliver the image: {type(error).__name__}") from None

    def _read_body(self, response: httpx.Response, end: float) -> bytes:
        """Read as the bytes arrive (no fixed chunk, which a dripping server would never fill), watching both limits."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > self.settings.image_limit_bytes:
                raise self._too_large()
            if time.monotonic() > end:
                limit_s = self.settings.image_timeout_s
                raise ImageUnavailable(f"the image took longer than IMAGE_TIMEOUT_S={limit_s:g} seconds to arrive")
        return bytes(body)

    # -- small checks ------------------------------------------------------------------------------------------------

    def _limited(self, data: bytes) -> bytes:
        if len(data) > self.settings.image_limit_bytes:
            raise self._too_large()
        return data

    def _too_large(self) -> ImageError:
        return ImageTooLarge(f"the file is larger than IMAGE_LIMIT_BYTES={self.settings.image_limit_bytes}")

    def _label_studio_origin(self) -> str | None:
        return _origin(self.settings.label_studio_url) if self.settings.label_studio_url else None

    def _require_url(self) -> str:
        if not self.settings.label_studio_url:
            raise ImageForbidden("the image lies in Label Studio: set LABEL_STUDIO_URL, so that it can be fetched")
        return self.settings.label_studio_url

    def _require_authorization(self, address: str) -> Mapping[str, str]:
        headers = self.authorize()
        if not headers:
            raise ImageForbidden("the image lies in Label Studio, which asks for a token: set LABEL_STUDIO_API_KEY")
        return headers


def _check_status(response: httpx.Response) -> None:
    status, where = response.status_code, _origin(str(response.url))
    if status in (401, 403):
        raise ImageForbidden(f"{where} denies access to the image ({status}); check the token and its rights")
    if status in (404, 410):
        raise ImageNotFound(f"{where} has no such image ({status})")
    if status == 429 or status >= 500:
        raise ImageUnavailable(f"{where} answered {status}")
    if status >= 400:
        raise ImageForbidden(f"{where} answered {status}")


def _decode_data_uri(address: str) -> bytes:
    header, comma, body = address.partition(",")
    if not comma:
        raise ImageUnreadable("the data: URI has no comma between its type and its data")
    try:
        if header.lower().endswith(";base64"):
            return base64.b64decode(unquote(body), validate=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise ImageUnreadable("the data: URI is not valid base64") from None


def _inside(root: Path, relative: str) -> Path:
    """The path below root, or ImageForbidden: neither `..` nor a symbolic link leads out of it."""
    resolved = (root / relative.lstrip("/")).resolve()
    if not relative or not resolved.is_relative_to(root.resolve()):
        raise ImageForbidden("the file lies outside the configured directory")
    return resolved


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()
