"""A DNS server on loopback that takes every question and never answers, and the C library's resolver pointed at it.

Called by: tests/unit/test_dns.py, tests/services/test_notify.py. Must not import: anything of ours.
Only for glibc, as workers have it: its resolver has a state for each thread (<resolv.h>) that wins over resolv.conf.
Example: with SilentDns() as dns: monkeypatch.setattr(socket, "getaddrinfo", dns.getaddrinfo)
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Any

#: Of `struct __res_state`: the number of name servers, and the first one's sockaddr_in behind it.
COUNT_AT, FIRST_AT = 16, 20
_real_getaddrinfo = socket.getaddrinfo


class SilentDns:
    """Its questions wait in its socket, unanswered."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        libc = ctypes.CDLL("libc.so.6")
        self._begin, self._state = libc["__res_init"], libc["__res_state"]  # as items: attributes would be mangled
        self._state.restype = ctypes.c_void_p

    def getaddrinfo(self, host: Any, *rest: Any, **more: Any) -> Any:
        """The system's own, asking this server."""
        self._begin()
        state = int(self._state())
        server = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", self._socket.getsockname()[1], b"\x7f\0\0\1")
        ctypes.memmove(state + COUNT_AT, struct.pack("=i", 1), 4)
        ctypes.memmove(state + FIRST_AT, server, len(server))
        return _real_getaddrinfo(host, *rest, **more)

    def wait_for_question(self, timeout_s: float) -> bytes:
        """The oldest that has not been read. Raises TimeoutError where nobody asks."""
        self._socket.settimeout(timeout_s)
        return self._socket.recv(4096)

    def __enter__(self) -> SilentDns:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
