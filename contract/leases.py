"""A lease: who works on something that takes hours, renewed while its owner lives and lapsing by itself when it dies.

Called by: worker.finetune, worker.gpu_lease (hold some), worker.reconcile (looks whether one lapsed). Must not import:
Celery, Flask.
Each change is one script that compares the owner's token, so that a late owner never ends its successor's lease.
Example: `with Lease(client, "ft-3-5c1d09ab").kept() as lost: ...` and stop when `lost.is_set()`
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis

log = logging.getLogger(__name__)

TTL_S = 30.0  #: after so long without a renewal another process may take over
_RENEWALS = 3  #: tries within one ttl

_RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])"

# KEYS: leases to take, then those that nobody else may hold. ARGV: owner, ttl in ms, how many to take. Returns 1 or 0.
_ACQUIRE_ALL = """
for _, key in ipairs(KEYS) do
  local owner = redis.call('GET', key)
  if owner and owner ~= ARGV[1] then return 0 end
end
for number = 1, tonumber(ARGV[3]) do redis.call('SET', KEYS[number], ARGV[1], 'PX', ARGV[2]) end
return 1
"""


class Lease:
    """One process's claim on `key`. Methods raise redis.RedisError when Redis does not answer.

    `owner` is a name that outlives the process: who goes on with its work may have its lease at once (acquire_all).
    """

    def __init__(self, client: redis.Redis, key: str, ttl_s: float = TTL_S, owner: str = "") -> None:
        self._redis, self._key, self._ttl_s = client, lease_key(key), ttl_s
        self._owner = owner or secrets.token_hex(8)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)

    def acquire(self) -> bool:
        """True where nobody held it."""
        return bool(self._redis.set(self._key, self._owner, nx=True, px=self._ttl_ms))

    def renew(self) -> bool:
        """False where it lapsed, whoever has it now: stop working."""
        return bool(self._renew(keys=[self._key], args=[self._owner, self._ttl_ms]))

    def release(self) -> bool:
        """False where it was not ours any more."""
        return bool(self._release(keys=[self._key], args=[self._owner]))

    @contextmanager
    def kept(self) -> Iterator[threading.Event]:
        """Renew an acquired lease until the block ends, then release it. The event is set when it was lost."""
        lost, end = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._keep, args=(lost, end), name="lease", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            end.set()
            thread.join()
            if not lost.is_set():
                self.release()

    def _keep(self, lost: threading.Event, end: threading.Event) -> None:
        while not end.wait(self._ttl_s / _RENEWALS):
            try:
                if not self.renew():
                    log.warning("the lease %s has lapsed", self._key)
                    lost.set()
                    return
            except redis.RedisError as error:  # it may come back within the ttl; if not, renew() says so
                log.warning("the lease %s could not be renewed: %s", self._key, error)

    @property
    def _ttl_ms(self) -> int:
        return int(self._ttl_s * 1000)


def acquire_all(client: redis.Redis, keys: Sequence[str], *, owner: str, ttl_s: float = TTL_S,
                unless_held: Sequence[str] = ()) -> list[Lease]:  # fmt: skip
    """All of the leases in one step, or none: the empty list, where another one holds any, or any of `unless_held`.

    Two that take theirs one by one could each hold what the other one waits for. Raises redis.RedisError.
    """
    named = [lease_key(key) for key in (*keys, *unless_held)]
    if not client.eval(_ACQUIRE_ALL, len(named), *named, owner, str(int(ttl_s * 1000)), str(len(keys))):
        return []
    return [Lease(client, key, ttl_s, owner) for key in keys]


def owners(client: redis.Redis, keys: Sequence[str]) -> list[str | None]:
    """Who holds each lease; None where nobody does."""
    held = client.mget([lease_key(key) for key in keys]) if keys else []
    return [None if owner is None else str(owner) for owner in held]


def is_held(client: redis.Redis, key: str) -> bool:
    """Whether some process holds the lease."""
    return bool(client.exists(lease_key(key)))


def lease_key(key: str) -> str:
    """Where Redis holds it."""
    return f"gc:lease:{key}"
