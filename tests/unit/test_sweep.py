"""What comes meanwhile goes together, nothing is lost, and a failure costs only its own call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from worker.sweep import Sweep

WAIT_S = 60.0  #: for another thread, on a busy machine


def test_given_items_that_come_while_one_call_runs_when_it_ends_then_the_next_call_has_them_all():
    calls: list[list[int]] = []
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def run(items: list[int]) -> None:
        calls.append(items)
        began.set()
        go_on.wait(WAIT_S)
        if 3 in items:
            ended.set()

    with ThreadPoolExecutor(2) as threads:  # the second one stays idle: calls do not overlap
        sweep = Sweep(run, threads.submit)
        sweep.add(1)
        assert began.wait(WAIT_S)
        sweep.add(2)
        sweep.add(3)
        go_on.set()
        assert ended.wait(WAIT_S)

    assert calls == [[1], [2, 3]]


def test_given_items_put_without_a_call_when_it_is_told_to_go_then_one_call_has_them():
    calls: list[list[int]] = []

    with ThreadPoolExecutor(1) as threads:
        sweep = Sweep(calls.append, threads.submit)
        sweep.go()
        sweep.put(1)
        sweep.put(2)
        sweep.go()

    assert calls == [[1, 2]]


def test_given_a_call_that_fails_when_more_has_come_meanwhile_then_that_is_run():
    calls: list[list[int]] = []
    began, go_on = threading.Event(), threading.Event()

    def run(items: list[int]) -> None:
        calls.append(items)
        began.set()
        go_on.wait(WAIT_S)
        if items == [1]:
            raise ValueError("no")

    with ThreadPoolExecutor(1) as threads:
        sweep = Sweep(run, threads.submit)
        sweep.add(1)
        assert began.wait(WAIT_S)
        sweep.add(2)
        go_on.set()

    assert calls == [[1], [2]]


def test_given_many_threads_that_add_when_all_is_done_then_each_item_was_run_once():
    found: list[int] = []

    with ThreadPoolExecutor(2) as threads:
        sweep = Sweep(found.extend, threads.submit)
        with ThreadPoolExecutor(8) as adders:
            list(adders.map(sweep.add, range(1000)))

    assert sorted(found) == list(range(1000))
