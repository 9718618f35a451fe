"""Redis behind Sentinel: one address that names the sentinels, and clients that follow the master wherever it moves.

Called by: contract.broker, contract.settings (to check). Must not import: Celery, Flask.
redis-py and kombu each have their own way of naming sentinels; REDIS_URL has one of ours, which both are made from.
Example: REDIS_URL=sentinel://:password@s1:26379,s2:26379,s3:26379/mymaster/0?sentinel_password=other
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import redis
from redis.sentinel import Sentinel

from contract.errors import SettingsError
from contract.redis_connections import LimitedSentinelConnection, limit_sentinels

SCHEME = "sentinel://"
PORT = 26379
FORM = f"REDIS_URL: must look like {SCHEME}:password@host1:{PORT},host2:{PORT}/master/0"


class SentinelAddress(NamedTuple):
    """What REDIS_URL says."""

    hosts: tuple[tuple[str, int], ...]
    master: str  #: the name that the sentinels know it by
    db: int
    password: str  #: of the master and its replicas; empty: none
    sentinel_password: str  #: of the sentinels themselves

    @classmethod
    def parse(cls, url: str) -> SentinelAddress:
        """Raises SettingsError."""
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        master, _, db = parts.path.strip("/").partition("/")
        try:
            found = tuple(_host(host) for host in hosts.split(",") if host)
            database = int(db or "0")
        except ValueError:
            raise SettingsError(FORM) from None
        if not found or not master:
            raise SettingsError(FORM)
        other = parse_qs(parts.query).get("sentinel_password", [""])[0]
        return cls(found, master, database, unquote(credentials.partition(":")[2]), other)

    @property
    def sentinel_options(self) -> dict[str, str]:
        return {"password": self.sentinel_password} if self.sentinel_password else {}

    @property
    def kombu_url(self) -> str:
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"{SCHEME}{login}{host}:{port}/{self.db}" for host, port in self.hosts)

    def connect(self, **options: float | bool) -> redis.Redis:
        """A client of whichever server is the master when it connects; `options` are those of redis.Redis."""
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self.hosts, sentinel_kwargs={**options, **self.sentinel_options}
        )
        limit_sentinels(sentinel)
        client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
            self.master, db=self.db, password=self.password or None, connection_class=LimitedSentinelConnection,
            **options,
        )  # fmt: skip
        return client


def _host(text: str) -> tuple[str, int]:
    name, _, port = text.partition(":")
    return name, int(port or PORT)
