"""Which hosts an image may be fetched from: a pure rule over URLs and the IP addresses that DNS gives for them.

Called by: worker.downloads (before each request, after each redirect, after each DNS answer). Must not import: torch,
Celery. A task's address is written by whoever may import tasks, so it must not reach what only this machine can reach.
Example: `HostRules.of(settings).check_url(httpx.URL("http://169.254.169.254/"))` raises ImageForbidden.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from contract.errors import ImageForbidden, SettingsError
from contract.settings import Settings

PORTS = {"http": 80, "https": 443}
LOWEST_FREE_PORT = 1024  #: below it only 80 and 443 speak HTTP; mail, SSH and the like must not be spoken to
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?")
_NUMBER_LIKE = re.compile(r"(\d+|0x[0-9a-f]*)\.?")  #: as a last label: 2130706433, 0x7f.1, 127.1

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Public by Python's tables, but answered inside a cloud: Oracle's metadata (192.0.0.0/24), Azure's WireServer
_CLOUD_INTERNAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "168.63.129.16/32")))
#: IPv6 networks whose last four bytes are an IPv4 address: translated (RFC 6052, 8215), compatible (RFC 4291), and
#: stateless translation (RFC 2765)
_CARRIES_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")))


class Place(NamedTuple):
    """Where a request goes: one origin without its scheme."""

    host: str
    port: int


class PrivateHost(NamedTuple):
    """One entry of IMAGE_PRIVATE_HOSTS: a name or a network, on one port or on all."""

    name: str
    network: IPNetwork | None
    port: int | None


@dataclass(frozen=True)
class HostRules:
    """IMAGE_SCHEMES, IMAGE_HOSTS, IMAGE_PRIVATE_HOSTS and Label Studio's own address, as one rule."""

    own: httpx.URL | None  #: LABEL_STUDIO_URL
    schemes: frozenset[str]
    hosts: tuple[str, ...] = ()  #: names or `*.suffix`; empty: any public host
    private: tuple[PrivateHost, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> HostRules:
        """Raises SettingsError naming the entry that cannot be read."""
        own = httpx.URL(settings.label_studio_url) if settings.label_studio_url else None
        private = tuple(map(_read_private_host, _entries(settings.image_private_hosts)))
        return cls(own, frozenset(_entries(settings.image_schemes)), _entries(settings.image_hosts), private)

    def is_own(self, url: httpx.URL) -> bool:
        """Whether this is Label Studio: same scheme, host and port."""
        return self.own is not None and url.scheme == self.own.scheme and self.shares_place(url)

    def shares_place(self, url: httpx.URL) -> bool:
        """Whether this is the host and port of Label Studio, by whichever protocol."""
        return self.own is not None and place(url) == place(self.own)

    def check_scheme(self, scheme: str) -> None:
        """Raises ImageForbidden."""
        if scheme not in self.schemes:
            allowed = ", ".join(sorted(self.schemes))
            raise ImageForbidden(f"images are not read from {scheme or 'relative'} addresses; use {allowed} "
                                 "(IMAGE_SCHEMES), or a path of Label Studio")  # fmt: skip

    def check_url(self, url: httpx.URL) -> None:
        """What can be said before DNS is asked. Raises ImageForbidden."""
        if url.scheme not in PORTS:
            raise ImageForbidden(f"images are not fetched over {url.scheme or 'no protocol'}; use http or https")
        if url.userinfo:
            raise ImageForbidden("the image's address holds a user name or password; use a presigned URL instead")
        where = place(url)
        _check_host(where.host)
        if self._is_trusted(where):
            return
        if f".{where.host.rstrip('.')}".endswith(".localhost"):  # RFC 6761: this machine, whatever DNS says
            raise _private(where)
        if where.port not in PORTS.values() and not LOWEST_FREE_PORT <= where.port <= 65535:
            raise ImageForbidden(f"images are not fetched from port {where.port}")
        if not self._is_listed(where):
            raise ImageForbidden(f"images are not fetched from {where.host}: IMAGE_HOSTS does not name it")

    def check_addresses(self, where: Place, addresses: Iterable[str]) -> None:
        """What DNS gave; one private address among public ones is enough to refuse. Raises ImageForbidden."""
        if self._is_trusted(where):
            return
        for address in map(ipaddress.ip_address, addresses):
            if not is_public(address) and not self._is_in_private_network(address, where.port):
                raise _private(where)

    def _is_trusted(self, where: Place) -> bool:
        """Named by the operator, so it may be private."""
        if self.own is not None and where == place(self.own):
            return True
        return any(entry.name == where.host and entry.port in (None, where.port) for entry in self.private)

    def _is_listed(self, where: Place) -> bool:
        if not self.hosts:
            return True
        host = where.host.rstrip(".")
        if any(host == entry or (entry.startswith("*.") and host.endswith(entry[1:])) for entry in self.hosts):
            return True
        literal = _as_ip(host)
        return literal is not None and self._is_in_private_network(literal, where.port)

    def _is_in_private_network(self, address: IPAddress, port: int) -> bool:
        return any(entry.network is not None and entry.port in (None, port) and address in entry.network
                   for entry in self.private)  # fmt: skip


def _private(where: Place) -> ImageForbidden:
    return ImageForbidden(
        f"{where.host} is a private address, and tasks may not name one; where your images lie there, "
        f"set IMAGE_PRIVATE_HOSTS={where.host}:{where.port}"
    )


def place(url: httpx.URL) -> Place:
    port = PORTS.get(url.scheme, 0) if url.port is None else url.port
    return Place(url.raw_host.decode("ascii").lower(), port)


def is_public(address: IPAddress) -> bool:
    """Whether the whole internet means the same host by it. IPv4 hidden in IPv6 is looked at as IPv4."""
    hidden = _hidden_ipv4(address)
    if hidden is not None:
        return is_public(hidden)
    odd = address.is_multicast or address.is_reserved or any(address in network for network in _CLOUD_INTERNAL)
    return address.is_global and not odd


def _hidden_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    tunnel = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if tunnel is None and any(address in network for network in _CARRIES_IPV4):
        return ipaddress.IPv4Address(address.packed[-4:])
    return tunnel


def _check_host(host: str) -> None:
    """A plain name or a plain IP address; the many other spellings of 127.0.0.1 exist to get past such rules."""
    if _as_ip(host) is not None and "%" not in host:
        return
    if not _NAME.fullmatch(host) or _NUMBER_LIKE.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise ImageForbidden("the image's address names no host: write a name, or an IP address in its usual form")


def _as_ip(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.lower() for entry in re.split(r"[\s,]+", text) if entry)


def _read_private_host(entry: str) -> PrivateHost:
    name, port = entry, None
    found = re.fullmatch(r"(\[.+\]|[^:]+):(\d{1,5})", entry)
    if found:
        name, port = found[1], int(found[2])
    name = name.strip("[]")
    try:
        return PrivateHost(name, ipaddress.ip_network(name), port)
    except ValueError:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"IMAGE_PRIVATE_HOSTS: {entry!r} is no host, host:port or network") from None
        return PrivateHost(name, None, port)
