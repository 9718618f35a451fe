"""Rows: Label Studio is away, in trouble or slow; its tokens expire; its events come twice or in the wrong order.

Called by: benchmarks/faults.py. Must not import: backend, worker. Label Studio is a fake in all rows: a real one does
not fail at a chosen instant; tests/services/test_faults_label_studio.py breaks things around a real one.
Example: `ROWS[0].run(site, 1000)`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.faults_row import Outcome, Row, finish, numbers
from benchmarks.faults_site import Site

AWAY_S = 60.0
TROUBLE_S = 15.0
DELIVERIES = 5
UPLOAD = "/data/upload/1/plain.png"  #: an image that Label Studio itself holds
FIRST_TOKEN_S = 3.0  #: instead of 300


def label_studio_down(site: Site, tasks: int) -> Outcome:
    """Connections are refused for a minute, also to those who want an image."""
    version = site.setup()
    site.announce(numbers(tasks), images=dict.fromkeys(numbers(tasks), UPLOAD))
    site.wait_stored_count(tasks // 5, version)
    site.label_studio.stop_listening()
    time.sleep(min(AWAY_S, max(tasks * 0.06, 5)))
    site.label_studio.listen_again()
    return finish(site, numbers(tasks), version, time.monotonic())


def in_trouble(trouble: str, site: Site, tasks: int) -> Outcome:
    """It answers 500, 429 with Retry-After, or three seconds late."""
    version = site.setup()
    site.announce(numbers(tasks))
    site.wait_stored_count(tasks // 5, version)
    site.label_studio.trouble = trouble
    time.sleep(min(TROUBLE_S, max(tasks * 0.015, 4)))
    site.label_studio.trouble = ""
    return finish(site, numbers(tasks), version, time.monotonic())


def token_expires(site: Site, tasks: int) -> Outcome:
    """Access tokens are refused before their time, and then live three seconds; work comes all the while."""
    version, half = site.setup(), tasks // 2
    site.announce(numbers(half))
    site.wait_stored_count(half // 4, version)
    site.label_studio.access_lives_s = FIRST_TOKEN_S
    site.label_studio.forget_tokens()
    finish(site, numbers(half), version, time.monotonic())
    time.sleep(FIRST_TOKEN_S)
    site.announce(numbers(tasks))
    return finish(site, numbers(tasks), version, time.monotonic())


def webhook_repeated(site: Site, tasks: int) -> Outcome:
    """The same event five times, at the same moment, and a /predict of the same tasks."""
    version = site.setup()
    tell: Callable[[int], object] = lambda _: site.announce(numbers(tasks))  # noqa: E731
    with ThreadPoolExecutor(DELIVERIES) as pool:
        list(pool.map(tell, range(DELIVERIES)))
    site.predict(numbers(tasks))
    return finish(site, numbers(tasks), version, time.monotonic())


def events_out_of_order(site: Site, tasks: int) -> Outcome:
    """Deleted before created, predicted before created, an edit of the project in between."""
    version = site.setup()
    gone, rest = numbers(tasks)[: tasks // 10], numbers(tasks)[tasks // 10 :]
    site.announce(gone, action="TASKS_DELETED")
    site.predict(rest)
    site.announce([], action="PROJECT_UPDATED")
    site.announce(numbers(tasks))
    return finish(site, rest, version, time.monotonic())


def task_deleted(site: Site, tasks: int) -> Outcome:
    """Tasks are deleted while they wait, some with an event, some without: Label Studio refuses those."""
    version = site.setup()
    told, silent = numbers(tasks)[: tasks // 10], set(numbers(tasks)[-5:])
    site.pause(site.parts["worker 1"].child.pid)
    site.ask(list(numbers(tasks)))
    site.announce(told, action="TASKS_DELETED")
    site.label_studio.unknown_tasks |= silent
    site.resume()
    return finish(site, set(numbers(tasks)) - set(told) - silent, version, time.monotonic())


ROWS = (
    Row("label_studio_down_60_s", label_studio_down, limit_s=120),
    Row("label_studio_500", partial(in_trouble, "500"), limit_s=60),
    Row("label_studio_429", partial(in_trouble, "429"), limit_s=60),
    Row("label_studio_slow", partial(in_trouble, "slow"), limit_s=60),
    Row("token_expires", token_expires, limit_s=45),
    Row("webhook_5_times", webhook_repeated, limit_s=45),
    Row("events_out_of_order", events_out_of_order, limit_s=45),
    Row("task_deleted_while_waiting", task_deleted, limit_s=60),
)
