"""Connections whose DNS look-up ends in time, for the HTTP clients of workers and writer.

Called by: worker.labelstudio, worker.notify, worker.downloads. Must not import: torch, Celery.
httpx's timeouts do not reach the system's resolver: one that hangs would hold the writer for minutes.
Example: `limit_look_ups(httpx.Client(timeout=60.0)).get(settings.label_studio_url)`
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import httpcore
import httpx

from contract.dns import limit_of, look_up

log = logging.getLogger(__name__)


class LimitedNetwork(httpcore.NetworkBackend):
    """Resolves a name within a time limit, and connects to the first of its addresses that answers."""

    def __init__(self) -> None:
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises httpcore.ConnectError or ConnectTimeout when no address answers, or none is found in time."""
        failure: httpcore.ConnectError | httpcore.ConnectTimeout = httpcore.ConnectError(f"{host} has no address")
        for address in self._find_addresses(host, port, limit_of(timeout)):
            try:
                left_s = self._left_s(timeout)
                return self._sockets.connect_tcp(address, port, left_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        self._sockets.sleep(seconds)

    def _find_addresses(self, host: str, port: int, limit_s: float) -> list[str]:
        try:
            return look_up(host, port, limit_s)
        except TimeoutError:
            log.warning("DNS gave no answer for %s within %g seconds", host, limit_s)
            raise httpcore.ConnectTimeout(f"DNS gave no answer for {host}") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address") from error

    def _left_s(self, timeout_s: float | None) -> float | None:
        """The limit for one address."""
        return timeout_s


def limit_look_ups(client: httpx.Client) -> httpx.Client:
    """The same client, whose look-ups take LONGEST_LOOK_UP_S at most; also those of the environment's proxies.

    httpx has no setting for it, and a transport given to it would switch those proxies off.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = LimitedNetwork()
    return client
