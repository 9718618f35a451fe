"""Redis: does it answer, does it keep its data, does it have room.

Called by: groundcrew.doctor. Must not import: backend, worker.
Example: `check_redis(patient).message == "Redis 7.0.15 answers at redis://127.0.0.1:6379/0"`
"""

from __future__ import annotations

import re

import redis

from contract.broker import connect_redis, redis_url
from groundcrew.checks.check import Check, ok, problem, skipped, warning
from groundcrew.checks.patient import Patient

LEAST_VERSION = (6, 2)  #: the first that reads a sorted set by score with ZRANGE
FULL = 0.8  #: of maxmemory; beyond it the API refuses new jobs
KEEP_REMEDY = "Start Redis with `--appendonly yes`, or run `redis-cli config set appendonly yes`."
EVICTION_REMEDY = "Run `redis-cli config set maxmemory-policy noeviction`: with any other a full Redis deletes jobs."


def check_redis(patient: Patient) -> Check:
    """Does it answer, and is it new enough?"""
    shown = hide_password(redis_url(patient.settings))
    if patient.redis is None:
        return _no_redis(patient, shown)
    version = str(patient.redis.info("server")["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
        return problem("redis", f"Redis {version} answers at {shown}, which is too old", "Use Redis 6.2 or newer.")
    return ok("redis", f"Redis {version} answers at {shown}")


def _no_redis(patient: Patient, shown: str) -> Check:
    if not patient.settings.redis_url:
        return warning("redis", f"none runs at {shown}, and no crew was started in this directory",
                       "Nothing to do: `groundcrew up` starts its own; or set REDIS_URL to yours.")  # fmt: skip
    reason = _reason(patient)
    if "auth" in reason.lower() or "password" in reason.lower():
        return problem("redis", f"Redis at {shown} refuses us: {reason}", "Put user and password into REDIS_URL.")
    return problem("redis", f"nothing answers at {shown} ({reason})",
                   "Start Redis, or `groundcrew up`, which brings its own; or correct REDIS_URL.")  # fmt: skip


def _reason(patient: Patient) -> str:
    """The kind of error, and Redis's own words where it answered at all; never an address with its password."""
    try:
        with connect_redis(patient.settings) as client:
            client.ping()
    except redis.AuthenticationError as error:
        return str(error)
    except redis.RedisError as error:
        return type(error).__name__
    except ValueError:
        return "no address that redis-py understands"
    return "it answers now, try again"


def check_redis_durability(patient: Patient) -> Check:
    """Do waiting jobs survive a restart of Redis?"""
    if patient.redis is None:
        return skipped("redis_durability", "needs Redis")
    if int(patient.redis.info("persistence").get("aof_enabled", 0)):
        return ok("redis_durability", "writes are appended to a file: waiting jobs survive a restart of Redis")
    lost = "a restart of Redis may lose waiting jobs: it keeps no append-only file"
    return warning("redis_durability", lost, KEEP_REMEDY)


def check_redis_memory(patient: Patient) -> Check:
    """Is there room, and would a full Redis refuse new jobs instead of deleting old ones?"""
    if patient.redis is None:
        return skipped("redis_memory", "needs Redis")
    memory = patient.redis.info("memory")
    used, limit, policy = int(memory["used_memory"]), int(memory.get("maxmemory", 0)), memory.get("maxmemory_policy")
    if not limit:
        return ok("redis_memory", f"{_mib(used)} used, without a limit of its own")
    if policy != "noeviction":
        return problem("redis_memory", f"maxmemory-policy is {policy}", EVICTION_REMEDY)
    message = f"{_mib(used)} of {_mib(limit)} used, noeviction"
    if used > FULL * limit:
        return problem("redis_memory", f"{message}: new jobs are refused", "Start more workers, or raise maxmemory.")
    return ok("redis_memory", message)


def hide_password(url: str) -> str:
    """The address without user and password, for messages."""
    return re.sub(r"//[^/@]*@", "//", url)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
