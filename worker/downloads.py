"""One HTTP GET for an address that a stranger may have written: checked hosts, and limits on time, bytes and redirects.

Called by: worker.addresses. Must not import: torch, Celery, Pillow.
The IP address that was checked is the one that is connected to, so DNS cannot answer differently in between.
Example: `Downloader(HostRules.of(settings), timeout_s=30, limit_bytes=2**26).get(url, headers_for)`
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar

import httpcore
import httpx

from contract.errors import (
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ImageUnavailable,
    ImageUnreadable,
    LabelStudioAway,
)
from worker.connections import LimitedNetwork
from worker.hosts import HostRules, Place

CONNECT_TIMEOUT_S = 5.0
MOST_REDIRECTS = 5  #: Label Studio, its storage, and a mirror or two
MOST_CONNECTIONS = 100
KEPT_CONNECTIONS = 20
KEPT_S = 5.0
REDIRECTS = (301, 302, 303, 307, 308)
AWAY = (429, 502, 503, 504)  #: what a server says that is busy, or the proxy before one that is gone
_TOO_LATE = "DNS gave no answer for {host} within the IMAGE_TIMEOUT_S seconds of a download"
_NO_CONNECTION = (httpcore.ConnectError, httpcore.ConnectTimeout)
_FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ssl.SSLError, OSError)

HeadersFor = Callable[[httpx.URL], Mapping[str, str]]
#: When the request of this thread ends, by time.monotonic(). httpcore reads in the thread that asked, but its timeouts
#: are those of one read: a server that drips its headers would keep a thread for hours.
_end_s: ContextVar[float] = ContextVar("end_s")


class Downloader:
    """Keeps connections; safe between threads. Proxies of the environment are not used: they would resolve names."""

    def __init__(self, rules: HostRules, *, timeout_s: float, limit_bytes: int) -> None:
        self._rules = rules
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=MOST_CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_S,
            network_backend=CheckedNetwork(rules),
        )

    def close(self) -> None:
        self._pool.close()

    def get(self, address: str, headers_for: HeadersFor) -> bytes:
        """The body behind `address`.

        Args:
            headers_for: what to send to a host; asked anew after each redirect, so that no token goes elsewhere.

        Raises:
            ImageForbidden, ImageNotFound, ImageTooLarge, ImageUnreadable; ImageUnavailable, which is worth a retry,
            LabelStudioAway among it.
        """
        _end_s.set(time.monotonic() + self._timeout_s)
        url = parse_url(address)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                self._rules.check_url(url)
                with self._stream(url, headers_for(url)) as response:
                    if response.status not in REDIRECTS:
                        self._check_away(response.status, url)
                        _check_status(response.status, url)
                        return self._read_body(response)
                    url = self._follow(url, response)
        except _FAILURES as error:
            raise self._failure(url, error) from None
        raise ImageForbidden(f"{origin(url)} redirects more than {MOST_REDIRECTS} times")

    def _stream(self, url: httpx.URL, headers: Mapping[str, str]) -> httpcore.Response:
        timeouts = {"connect": CONNECT_TIMEOUT_S, "read": self._timeout_s, "write": self._timeout_s,
                    "pool": self._timeout_s}  # fmt: skip
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent = {"Host": url.netloc.decode("ascii"), "User-Agent": "groundcrew", "Accept": "image/*,*/*;q=0.8",
                "Accept-Encoding": "identity", **headers}  # fmt: skip
        return self._pool.stream("GET", target, headers=sent, extensions={"timeout": timeouts})

    def _follow(self, url: httpx.URL, response: httpcore.Response) -> httpx.URL:
        target = url.join(parse_url(_header(response, b"location")))
        if self._rules.shares_place(target) and target.host != url.host:
            raise ImageForbidden(f"{origin(url)} redirects into Label Studio; name the image's own address in the task")
        return target

    def _read_body(self, response: httpcore.Response) -> bytes:
        """Read as the bytes arrive, whatever Content-Length announces."""
        announced = _header(response, b"content-length")
        if announced.isdecimal() and int(announced) > self._limit_bytes:
            raise self._too_large()
        if _header(response, b"content-encoding") not in ("", "identity"):
            raise ImageUnreadable("the server compresses the file (Content-Encoding), although it was asked not to")
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._limit_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(f"the file is larger than IMAGE_LIMIT_BYTES={self._limit_bytes}")

    def _failure(self, url: httpx.URL, error: BaseException) -> ImageUnavailable:
        if time.monotonic() >= _end_s.get():
            limit_s = self._timeout_s
            return ImageUnavailable(f"the image took longer than IMAGE_TIMEOUT_S={limit_s:g} seconds to arrive")
        away = isinstance(error, _NO_CONNECTION) and self._rules.is_own(url)
        kind = LabelStudioAway if away else ImageUnavailable
        return kind(f"{origin(url)} did not deliver the image: {type(error).__name__}")

    def _check_away(self, status: int, url: httpx.URL) -> None:
        """A 500 may be about this one image; these are not. Raises LabelStudioAway."""
        if status in AWAY and self._rules.is_own(url):
            raise LabelStudioAway(f"{origin(url)} answered {status}")


class CheckedNetwork(LimitedNetwork):
    """Resolves a name, checks every address it stands for, and connects to one of those."""

    def __init__(self, rules: HostRules) -> None:
        super().__init__()
        self._rules = rules

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises ImageForbidden before anything is connected; httpcore.ConnectError when no address answers."""
        return TimedStream(super().connect_tcp(host, port, timeout, local_address, socket_options))

    def _find_addresses(self, host: str, port: int, limit_s: float) -> list[str]:
        """Within the time of the whole download, not that of a connection: a lost question is asked again after 5 s."""
        try:
            addresses = super()._find_addresses(host, port, _left_s(None))
        except httpcore.ConnectTimeout:
            raise ImageUnavailable(_TOO_LATE.format(host=host)) from None
        self._rules.check_addresses(Place(host.lower(), port), addresses)
        return addresses

    def _left_s(self, timeout_s: float | None) -> float:
        return _left_s(timeout_s)


class TimedStream(httpcore.NetworkStream):
    """A connection whose reads and writes end when the whole request must."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None,
                  timeout: float | None = None) -> httpcore.NetworkStream:  # fmt: skip
        """The certificate is checked against the name in the URL, not against the IP address."""
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, _left_s(timeout)))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def origin(url: httpx.URL) -> str:
    """For messages: never a path or a query, which may hold a signature."""
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"


def _left_s(timeout_s: float | None) -> float:
    left_s = _end_s.get() - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout
    return left_s if timeout_s is None else min(left_s, timeout_s)


def parse_url(address: str) -> httpx.URL:
    """Raises ImageForbidden."""
    try:
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageForbidden("the image's address cannot be read as a URL") from error


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1").strip() for key, value in response.headers if key.lower() == name), "")


def _check_status(status: int, url: httpx.URL) -> None:
    where = origin(url)
    if status in (401, 403):
        raise ImageForbidden(f"{where} denies access to the image ({status}); check the token and its rights")
    if status in (404, 410):
        raise ImageNotFound(f"{where} has no such image ({status})")
    if status == 429 or status >= 500:
        raise ImageUnavailable(f"{where} answered {status}")
    if status != 200:
        raise ImageForbidden(f"{where} answered {status}")
