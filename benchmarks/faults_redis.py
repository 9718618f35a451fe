"""Rows: Redis is restarted, killed, silent or full.

Called by: benchmarks/faults.py. Must not import: backend, worker.
Example: `ROWS[0].run(site, 1000)`
"""

from __future__ import annotations

import os
import signal
import time

import requests

from benchmarks.faults_row import Outcome, Row, finish, numbers
from benchmarks.faults_site import Site, wait_until

AWAY_S = 60.0
CLEAR_ANSWER_WITHIN_S = 5.0
FULL_FOR_S = 10.0


def redis_restarted(site: Site, tasks: int) -> Outcome:
    """SIGTERM, and it comes back with its append-only file."""
    version = site.setup()
    site.announce(numbers(tasks))
    for share in (0.2, 0.5):
        site.wait_stored_count(int(share * tasks), version)
        os.kill(site.redis_pid, signal.SIGTERM)
        time.sleep(1)
    return finish(site, numbers(tasks), version, time.monotonic())


def redis_unreachable(site: Site, tasks: int) -> Outcome:
    """Silent for a minute under load: a clear 503 meanwhile, and afterwards everybody consumes again."""
    version = site.setup()
    site.announce(numbers(tasks))
    site.wait_stored_count(tasks // 5, version)
    end = time.monotonic() + min(AWAY_S, max(tasks * 0.06, 10))
    site.pause(site.redis_pid)
    while time.monotonic() < end:
        for ask in (site.predict, site.announce):
            began_s = time.monotonic()
            _expect_503(ask(numbers(3)), "broker_unavailable")
            assert time.monotonic() - began_s < CLEAR_ANSWER_WITHIN_S, "the 503 took too long"
        assert site.api_answers()
        time.sleep(1)
    site.resume()
    return finish(site, numbers(tasks), version, time.monotonic())


def _expect_503(answer: requests.Response, code: str) -> None:
    assert answer.status_code == 503, f"expected 503, got {answer.status_code}"
    assert answer.json()["code"] == code, answer.text
    assert int(answer.headers["Retry-After"]) > 0


def redis_killed_always(site: Site, tasks: int) -> Outcome:
    """kill -9 with appendfsync always: whatever was accepted is there afterwards, and nobody asks again."""
    site.client.config_set("appendfsync", "always")
    return _kill_redis(site, tasks, ask_again=False)


def redis_killed_everysec(site: Site, tasks: int) -> Outcome:
    """kill -9 with appendfsync everysec: the last second may be gone, so Label Studio asks again for what it lacks."""
    return _kill_redis(site, tasks, ask_again=True)


def _kill_redis(site: Site, tasks: int, *, ask_again: bool) -> Outcome:
    version = site.setup()
    accepted = site.announce(numbers(tasks))
    assert accepted.ok
    for share in (0.2, 0.5):
        site.wait_stored_count(int(share * tasks), version)
        os.kill(site.redis_pid, signal.SIGKILL)
        time.sleep(1)
    ended_s = time.monotonic()
    wait_until(lambda: bool(site.client.ping()), 30, "Redis")
    if ask_again:
        # as Label Studio does: for tasks that hold no prediction of the version that /setup names
        missing = [task for task in numbers(tasks) if task not in site.stored(version)]
        assert site.predict(missing).ok
    return finish(site, numbers(tasks), version, ended_s)


def redis_full(site: Site, tasks: int) -> Outcome:
    """Beyond 80 % of maxmemory new jobs are refused; beyond 100 % workers may die; nothing is evicted or lost."""
    version, first = site.setup(), tasks // 2
    site.announce(numbers(first))
    site.wait_stored_count(first // 4, version)
    used_bytes = int(site.client.info("memory")["used_memory"])
    site.client.config_set("maxmemory", int(used_bytes / 0.85))
    _expect_503(site.predict(numbers(tasks)[first:]), "queue_full")
    _expect_503(site.announce(numbers(tasks)[first:]), "queue_full")
    site.client.config_set("maxmemory", used_bytes // 2)
    time.sleep(FULL_FOR_S)
    site.client.config_set("maxmemory", 0)
    ended_s = time.monotonic()
    wait_until(lambda: site.announce(numbers(tasks)[first:]).ok, 30, "room for new jobs")
    outcome = finish(site, numbers(tasks), version, ended_s)
    assert site.client.info("stats")["evicted_keys"] == 0
    return outcome


ROWS = (
    Row("redis_restarted", redis_restarted, limit_s=60),
    Row("redis_unreachable_60_s", redis_unreachable, limit_s=60),
    Row("redis_killed_appendfsync_always", redis_killed_always, limit_s=75),
    Row("redis_killed_appendfsync_everysec", redis_killed_everysec, limit_s=75),
    Row("redis_out_of_memory", redis_full, limit_s=75),
)
