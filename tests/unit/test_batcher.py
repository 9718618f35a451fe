"""The batcher's promises: one key a batch, urgent first, errors stay in their batch, order kept."""

import threading
from concurrent.futures import wait

import pytest

from worker.batcher import MicroBatcher

WAIT_S = 60.0  #: for another thread, on a busy machine


class Recorder:
    """A run function that records its batches and can be held until the test lets it go."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()

    def __call__(self, key: str, items: list[int]) -> list[int]:
        self.batches.append((key, items))
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        if key == "bad":
            raise ValueError("bad batch")
        return [item * 10 for item in items]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher(recorder):
    batcher = MicroBatcher(recorder, limit=3, name="test")
    yield batcher
    recorder.gate.set()
    batcher.close()


def hold_first(batcher, recorder):
    first = batcher.submit("first", 0)
    assert recorder.entered.wait(WAIT_S)
    return first


def test_items_that_wait_together_run_together_up_to_the_limit(batcher, recorder):
    first = hold_first(batcher, recorder)
    futures = [batcher.submit("a", n) for n in range(1, 6)]
    recorder.gate.set()
    assert [f.result(WAIT_S) for f in futures] == [10, 20, 30, 40, 50]
    assert first.result(WAIT_S) == 0
    assert recorder.batches[1:] == [("a", [1, 2, 3]), ("a", [4, 5])]


def test_a_batch_holds_one_key_and_others_keep_their_order(batcher, recorder):
    hold_first(batcher, recorder)
    futures = [batcher.submit(key, n) for n, key in enumerate("abab", start=1)]
    recorder.gate.set()
    wait(futures, WAIT_S)
    assert recorder.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]


def test_urgent_items_start_before_any_bulk_one(batcher, recorder):
    hold_first(batcher, recorder)
    bulk = [batcher.submit("a", n) for n in (1, 2)]
    urgent = batcher.submit("a", 9, urgent=True)
    recorder.gate.set()
    wait([*bulk, urgent], WAIT_S)
    assert recorder.batches[1:] == [("a", [9]), ("a", [1, 2])]


def test_an_exception_reaches_its_batch_and_no_other(batcher, recorder):
    hold_first(batcher, recorder)
    bad, good = batcher.submit("bad", 1), batcher.submit("good", 2)
    recorder.gate.set()
    with pytest.raises(ValueError, match="bad batch"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S) == 20


def test_one_item_of_a_batch_can_fail_alone():
    batcher = MicroBatcher(lambda _key, items: [ValueError("odd") if n % 2 else n for n in items], limit=3, name="test")
    assert batcher.submit("k", 2).result(WAIT_S) == 2
    with pytest.raises(ValueError, match="odd"):
        batcher.submit("k", 1).result(WAIT_S)
    batcher.close()


def test_a_wrong_number_of_results_is_an_error_not_a_hang():
    batcher = MicroBatcher(lambda _key, _items: [], limit=3, name="test")
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        batcher.submit("k", 1).result(WAIT_S)
    batcher.close()


def test_a_cancelled_item_is_not_run(batcher, recorder):
    hold_first(batcher, recorder)
    gone, kept = batcher.submit("a", 1), batcher.submit("a", 2)
    assert gone.cancel()
    recorder.gate.set()
    assert kept.result(WAIT_S) == 20
    assert recorder.batches[1:] == [("a", [2])]


def test_busy_time_is_known_while_a_batch_runs(batcher, recorder):
    assert batcher.busy_for_s() == 0
    first = hold_first(batcher, recorder)
    assert batcher.busy_for_s() > 0
    recorder.gate.set()
    first.result(WAIT_S)


def test_close_finishes_what_waits(recorder):
    batcher = MicroBatcher(recorder, limit=3, name="test")
    hold_first(batcher, recorder)
    waiting = batcher.submit("a", 1)
    recorder.gate.set()
    batcher.close()
    assert waiting.result(0) == 10
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", 2)
