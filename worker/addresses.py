"""Fetches the bytes behind the address a Label Studio task names: upload, URL, data URI, local file, cloud object.

Called by: worker.predict, worker.image_cache. Must not import: torch, Celery, Pillow.
Label Studio's own file addresses get its token; no other host and no other path ever does.
Example: `Fetcher(settings, authorize).fetch("/data/upload/1/a.png", task_id=7) -> bytes`
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

import httpx

from contract.errors import ImageForbidden, ImageTooLarge, ImageUnreadable
from contract.settings import Settings
from worker.downloads import Downloader, parse_url
from worker.hosts import HostRules
from worker.local_files import read_below

CLOUD_SCHEMES = ("s3", "gs", "azure-blob", "azure_spi", "gcswif", "s3s")  #: Label Studio has the keys
#: Where Label Studio serves images. With our token every other path of its API would answer, too.
FILE_PATHS = ("/data/", "/tasks/", "/projects/", "/storage-data/")
LONGEST_ENCODING = 3  #: characters of a data: URI that may stand for one byte: %41

Headers = Mapping[str, str]


class Fetcher:
    """Where and how to fetch; `authorize()` gives fresh headers for Label Studio, or an empty mapping.

    Keeps connections; safe between threads. Raises SettingsError when IMAGE_PRIVATE_HOSTS cannot be read.
    """

    def __init__(self, settings: Settings, authorize: Callable[[], Headers]) -> None:
        self.settings = settings
        self._authorize = authorize
        self._rules = HostRules.of(settings)
        self._downloads = Downloader(
            self._rules, timeout_s=settings.image_timeout_s, limit_bytes=settings.image_limit_bytes
        )

    def close(self) -> None:
        """Close its connections; one that lives as long as its process need not."""
        self._downloads.close()

    def fetch(self, address: str, *, task_id: int = 0) -> bytes:
        """The image file behind `address`, at most IMAGE_LIMIT_BYTES, within IMAGE_TIMEOUT_S seconds.

        Raises an ImageError that says what is wrong with this address; only ImageUnavailable is worth a retry.
        """
        scheme = _scheme(address)
        if scheme == "" and address.startswith("/"):
            return self._fetch_label_studio_path(address)
        self._rules.check_scheme(scheme)
        if scheme == "data":
            return self._decode_data_uri(address)
        if scheme in CLOUD_SCHEMES:
            return self._fetch_cloud(address, task_id)
        return self._fetch_url(address)

    def read_near(self, address: str) -> bytes | None:
        """The file, if the address is a path of Label Studio whose files are on this disk. Raises ImageError."""
        if not address.startswith("/"):
            return None
        parts = urlsplit(address)
        return self._read_local(parts.path, parts.query)

    def _fetch_url(self, url: str) -> bytes:
        parts = urlsplit(url)
        if parts.path.startswith("/data/local-files/") or self._rules.is_own(parse_url(url)):
            local = self._read_local(parts.path, parts.query)
            if local is not None:
                return local
        return self._downloads.get(url, self._headers_for(url))

    def _fetch_label_studio_path(self, address: str) -> bytes:
        local = self.read_near(address)
        if local is not None:
            return local
        return self._download_own(self._require_url() + address)

    def _fetch_cloud(self, address: str, task_id: int) -> bytes:
        encoded = base64.urlsafe_b64encode(address.encode()).decode()
        return self._download_own(f"{self._require_url()}/tasks/{task_id}/resolve/?fileuri={encoded}")

    # -- Label Studio's files on this machine ----------------------------------------------------------------------

    def _read_local(self, path: str, query: str) -> bytes | None:
        """The file on this disk, where LOCAL_FILES_ROOT or LABEL_STUDIO_DATA_DIR says that it is here."""
        settings, limit_bytes = self.settings, self.settings.image_limit_bytes
        if path.startswith("/data/local-files/") and settings.local_files_root is not None:
            name = parse_qs(query).get("d", [""])[0]
            return read_below(settings.local_files_root, name, limit_bytes=limit_bytes)
        if path.startswith("/data/upload/") and settings.label_studio_data_dir is not None:
            root = settings.label_studio_data_dir / "media" / "upload"
            return read_below(root, unquote(path[len("/data/upload/") :]), limit_bytes=limit_bytes)
        return None

    # -- over HTTP ---------------------------------------------------------------------------------------------------

    def _download_own(self, url: str) -> bytes:
        if self._is_own_file(parse_url(url)) and not self._authorize():
            raise ImageForbidden("the image lies in Label Studio, which wants a token, so set LABEL_STUDIO_API_KEY")
        return self._downloads.get(url, self._headers_for(url))

    def _headers_for(self, address: str) -> Callable[[httpx.URL], Headers]:
        """The token for Label Studio's files, if the task itself names Label Studio and not a host that redirects."""
        named_own = self._rules.is_own(parse_url(address))
        return lambda url: self._authorize() if named_own and self._is_own_file(url) else {}

    def _is_own_file(self, url: httpx.URL) -> bool:
        if not self._rules.is_own(url):
            return False
        path = url.path.removeprefix(httpx.URL(self.settings.label_studio_url).path.rstrip("/"))
        return path.startswith(FILE_PATHS) and ".." not in path.split("/")

    # -- small checks ------------------------------------------------------------------------------------------------

    def _decode_data_uri(self, address: str) -> bytes:
        limit_bytes = self.settings.image_limit_bytes
        header, comma, body = address.partition(",")
        if not comma:
            raise ImageUnreadable("the data: URI has no comma between its type and its data")
        too_large = len(body) > LONGEST_ENCODING * limit_bytes  # known before it is decoded
        data = b"" if too_large else _decode(header, body)
        if too_large or len(data) > limit_bytes:
            raise ImageTooLarge(f"the file is larger than IMAGE_LIMIT_BYTES={limit_bytes}")
        return data

    def _require_url(self) -> str:
        if not self.settings.label_studio_url:
            raise ImageForbidden("the image lies in Label Studio: set LABEL_STUDIO_URL, so that it can be fetched")
        return self.settings.label_studio_url


def _decode(header: str, body: str) -> bytes:
    try:
        if header.lower().endswith(";base64"):
            return base64.b64decode(unquote(body), validate=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise ImageUnreadable("the data: URI is not valid base64") from None


def _scheme(address: str) -> str:
    try:
        return urlsplit(address).scheme.lower()
    except ValueError as error:  # [::1 without its bracket
        raise ImageForbidden("the image's address cannot be read as a URL") from error
