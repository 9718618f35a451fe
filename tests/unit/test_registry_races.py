"""Two changes of one project at the same instant: one is made after the other, none is lost."""

import multiprocessing
import threading

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contract.registry import Registry
from contract.settings import read_settings
from contract.stores import FolderStore, RemoteStore
from tests.fakes.versions import card, version_files

BASE = "tiny-shapes-1"
FIRST, SECOND, THIRD = (f"tiny-shapes-p3-{number}" for number in (1, 2, 3))
CROWD = 6  #: processes, or threads, that change one project together
ROUNDS = 8


def interrupted(store_class, at):
    """A store in which another process acts just before this one's first call of `at`."""

    class Interrupted(store_class):
        others = ()  #: what the other does; each once

        def _interrupt(self):
            waiting, self.others = self.others, ()
            for act in waiting:
                act()

        def claim_change(self, *arguments):
            if at == "claim_change":
                self._interrupt()
            return super().claim_change(*arguments)

        def point(self, *arguments):
            if at == "point":
                self._interrupt()
            return super().point(*arguments)

    return Interrupted


@pytest.fixture(params=["folder", "memory"])
def open_registry(request, tmp_path):
    """Opens the same registry again as another process would: `open_registry(at="point")` to be interrupted there."""

    def open_it(at=""):
        if request.param == "folder":
            store = interrupted(FolderStore, at)(tmp_path / "models")
        else:
            store = interrupted(RemoteStore, at)(MemoryFileSystem(), "/models", cache_dir=tmp_path / "cache")
        return Registry(read_settings({"MODEL_DIR": str(tmp_path / "models")}), store), store

    yield open_it
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def other(open_registry, tmp_path):
    """The other process, in a registry with three versions of which the first is current."""
    registry, _ = open_registry()
    for number in (1, 2, 3):
        registry.publish(version_files(tmp_path, str(number)), card(number))
    registry.promote(3, FIRST)
    return registry


def walk_back(registry):
    """All versions that were current, the latest first, down to the base."""
    seen = [registry.current(3).ref]
    while seen[-1] != BASE:
        seen.append(registry.rollback(3))
    return seen


@pytest.mark.parametrize("at", ["claim_change", "point"])
def test_of_two_promotions_at_the_same_instant_neither_is_lost(open_registry, other, at):
    # given the other promotes while this one is between reading and writing
    registry, store = open_registry(at)
    store.others = [lambda: other.promote(3, SECOND)]

    # when
    registry.promote(3, THIRD)

    # then the one that came later is current, and the other one is where rollback leads
    last, before = (THIRD, SECOND) if at == "claim_change" else (SECOND, THIRD)
    assert walk_back(open_registry()[0]) == [last, before, FIRST, BASE]


def test_a_rollback_that_meets_a_promotion_takes_back_what_is_current_then(open_registry, other):
    registry, store = open_registry("claim_change")
    store.others = [lambda: other.promote(3, SECOND)]
    assert registry.rollback(3) == FIRST == open_registry()[0].current(3).ref
    assert SECOND in {row.ref for row in open_registry()[0].list(3) if row.state == "retired"}


def test_a_promotion_that_meets_a_rollback_comes_after_it(open_registry, other):
    registry, store = open_registry("claim_change")
    store.others = [lambda: other.rollback(3)]
    registry.promote(3, SECOND)
    assert walk_back(open_registry()[0]) == [SECOND, BASE]


def test_a_promotion_while_another_version_is_published_concerns_only_its_own(open_registry, other, tmp_path):
    registry, store = open_registry("point")
    store.others = [lambda: other.publish(version_files(tmp_path, "4"), card(4))]
    registry.promote(3, SECOND)
    states = {row.ref: row.state for row in open_registry()[0].list(3)}
    assert (states[SECOND], states["tiny-shapes-p3-4"]) == ("current", "candidate")


def promote_in(root, barrier, ref):
    registry = Registry(read_settings({"MODEL_DIR": str(root)}))
    barrier.wait()
    registry.promote(3, ref)


@pytest.mark.parametrize("kind", [multiprocessing.get_context("fork").Process, threading.Thread])
def test_a_crowd_of_processes_or_threads_leaves_every_change_in_the_history(tmp_path, kind):
    # given as many versions as there are processes
    root = tmp_path / "models"
    registry = Registry(read_settings({"MODEL_DIR": str(root)}))
    refs = [registry.publish(version_files(tmp_path, str(n)), card(n)).ref for n in range(CROWD)]
    for _ in range(ROUNDS):
        # when each promotes its own at the same instant
        barrier = (threading if kind is threading.Thread else multiprocessing).Barrier(CROWD)
        crowd = [kind(target=promote_in, args=(root, barrier, ref)) for ref in refs]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()

        # then each was current once, and the way back passes all of them
        assert sorted(walk_back(registry)) == sorted([*refs, BASE])
