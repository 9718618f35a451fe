"""What all checks look at, each part fetched once: the settings, a Redis that answers, a Label Studio that lets us in.

Called by: groundcrew.checks.*, groundcrew.doctor. Must not import: backend, worker, torch.
A part that cannot be had is None; the check it belongs to says why, the others are skipped.
Example: `with Patient(read_settings()) as patient: patient.redis is None` means that Redis does not answer.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property

import redis
import requests

from contract.broker import connect_redis
from contract.settings import Settings
from groundcrew.checks.access import Access, find_access
from groundcrew.checks.projects import Link, Project, find_links, read_projects


class Patient:
    """The system under examination."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = ExitStack()

    def __enter__(self) -> Patient:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def api_url(self) -> str:
        """Where this machine reaches the API; one that listens on every address is asked on 127.0.0.1."""
        host = self.settings.api_host
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{self.settings.api_port}"  # noqa: S104

    @cached_property
    def redis(self) -> redis.Redis | None:
        try:
            client = self._open.enter_context(connect_redis(self.settings))
            client.ping()
        except (redis.RedisError, ValueError):  # ValueError: REDIS_URL is no address
            return None
        return client

    @cached_property
    def access(self) -> Access | None:
        """What Label Studio makes of the token; None without URL or token, or when Label Studio does not answer."""
        if not self.settings.can_write_back:
            return None
        try:
            key = self.settings.label_studio_api_key.get_secret_value()
            return find_access(self.settings.label_studio_url, key)
        except requests.RequestException:
            return None

    @cached_property
    def projects(self) -> list[Project] | None:
        """Label Studio's projects; None without an accepted token. Raises requests.RequestException."""
        if self.access is None or not self.access.accepted:
            return None
        return read_projects(self.settings.label_studio_url, self.access.headers)

    @cached_property
    def links(self) -> list[Link] | None:
        """Which of these projects we are connected to; None where `projects` is."""
        return None if self.projects is None else find_links(self.projects, self.api_url)
