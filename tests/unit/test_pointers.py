"""The pointers of a store that is far away: fresh, known before, or an error, and never a long wait.

Run by: pytest. Must not import: fsspec.
Example: pytest tests/unit/test_pointers.py
"""

import threading
import time

import pytest

from contract import pointers
from contract.errors import RegistryError
from contract.pointers import PATIENCE_S, Pointers

CROWD = 8


class Far:
    """A store; `silent` keeps whoever asks until it is set free."""

    def __init__(self):
        self.body, self.error, self.asked = b"1", None, 0
        self.silent = threading.Event()
        self.silent.set()

    def read(self, project_id):
        self.asked += 1
        self.silent.wait(60)
        if self.error is not None:
            raise self.error
        return self.body


@pytest.fixture
def far():
    store = Far()
    yield store
    store.silent.set()


@pytest.fixture
def known(far, monkeypatch):
    """What has asked once; and from now on all that it knows is old."""
    known = Pointers(far.read)
    assert known.get(3, fresh=False) == b"1"
    monkeypatch.setattr(pointers, "TTL_S", 0.0)
    return known


def test_it_is_asked_once_while_what_it_said_is_young(far):
    known = Pointers(far.read)
    assert [known.get(3, fresh=False) for _ in range(5)] == [b"1"] * 5
    assert far.asked == 1


def test_an_old_one_is_read_again_and_seen_at_once(far, known):
    far.body = b"2"
    assert known.get(3, fresh=False) == b"2"


def test_a_silent_store_is_asked_by_one_and_waited_for_a_moment(far, known):
    # given
    far.silent.clear()
    asked = far.asked

    # when many come at once, and one later
    began_s = time.monotonic()
    got = []
    crowd = [threading.Thread(target=lambda: got.append(known.get(3, fresh=False))) for _ in range(CROWD)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    waited_s = time.monotonic() - began_s
    assert known.get(3, fresh=False) == b"1"
    late_s = time.monotonic() - began_s - waited_s

    # then
    assert (got, far.asked - asked) == ([b"1"] * CROWD, 1)
    assert waited_s < 2 * PATIENCE_S
    assert late_s < PATIENCE_S / 2


def test_what_the_store_said_at_last_is_used(far, known):
    far.silent.clear()
    known.get(3, fresh=False)
    far.body = b"2"
    far.silent.set()
    for thread in [one for one in threading.enumerate() if one.name == "pointer"]:
        thread.join(30)

    far.error = RegistryError("no answer to anyone else")
    assert known.get(3, fresh=False) == b"2"


def test_one_that_fails_leaves_what_was_known_and_is_an_error_where_nothing_was(far, known):
    far.error = RegistryError("no answer")

    assert known.get(3, fresh=False) == known.get(3, fresh=True) == b"1"
    with pytest.raises(RegistryError, match="no answer"):
        known.get(4, fresh=False)
    known.forget(3)
    with pytest.raises(RegistryError, match="no answer"):
        known.get(3, fresh=False)
