"""Leases in a real Redis: one holder at a time, and a late owner harms nobody."""

import pytest

from contract.broker import connect_redis
from contract.leases import Lease, acquire_all, is_held, owners
from contract.settings import read_settings
from tests.services.waiting import wait_until

LONG_S = 600.0
KEPT_S = 3.0
SHORT_S = 0.3


@pytest.fixture
def client(redis_url):
    with connect_redis(read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/5"})) as client:
        client.flushdb()
        yield client


def lapse(client, key):
    """What the passing of time does, without waiting for it."""
    client.delete(f"gc:lease:{key}")


def test_one_process_holds_it_until_it_gives_it_up(client):
    first, second = Lease(client, "job", LONG_S), Lease(client, "job", LONG_S)
    assert (first.acquire(), second.acquire(), first.acquire()) == (True, False, False)
    assert is_held(client, "job")
    assert first.release()
    assert not is_held(client, "job")
    assert second.acquire()


def test_several_are_taken_in_one_step_or_not_at_all(client):
    assert Lease(client, "b", LONG_S).acquire()
    assert acquire_all(client, ["a", "b"], owner="job", ttl_s=LONG_S) == []
    assert acquire_all(client, ["a"], owner="job", unless_held=["b"], ttl_s=LONG_S) == []
    assert owners(client, ["a", "c"]) == [None, None]
    assert len(acquire_all(client, ["a", "c"], owner="job", ttl_s=LONG_S)) == 2
    assert owners(client, ["a", "c"]) == ["job", "job"]


def test_who_goes_on_with_a_job_has_its_leases_back_at_once(client):
    assert acquire_all(client, ["a"], owner="job", ttl_s=LONG_S)
    (again,) = acquire_all(client, ["a"], owner="job", ttl_s=LONG_S)
    assert acquire_all(client, ["a"], owner="another job", ttl_s=LONG_S) == []
    assert again.renew()


def test_leases_of_different_jobs_do_not_meet(client):
    assert Lease(client, "a", LONG_S).acquire()
    assert Lease(client, "b", LONG_S).acquire()


def test_renewing_sets_the_whole_time_anew(client):
    lease = Lease(client, "job", LONG_S)
    lease.acquire()
    client.pexpire("gc:lease:job", 10_000)
    assert lease.renew()
    assert client.pttl("gc:lease:job") > 10_000


def test_a_late_owner_can_neither_renew_nor_end_the_lease_of_its_successor(client):
    # given a lease that lapsed and was taken over
    late, successor = Lease(client, "job", LONG_S), Lease(client, "job", LONG_S)
    late.acquire()
    lapse(client, "job")
    assert not late.renew(), "nobody has it, but it is not ours any more"
    assert successor.acquire()

    # when / then
    assert (late.renew(), late.release()) == (False, False)
    assert successor.renew()


def test_a_lease_lapses_by_itself(client):
    Lease(client, "job", SHORT_S).acquire()
    wait_until(lambda: not is_held(client, "job"), "the end of the lease")
    assert Lease(client, "job", LONG_S).acquire()


def test_a_kept_lease_is_renewed_again_and_again_and_given_up_at_the_end(client):
    # given a lease that is renewed in the background
    lease = Lease(client, "job", KEPT_S)
    lease.acquire()

    # when its end is moved far away, a renewal is seen by moving it back
    with lease.kept() as lost:
        for _ in range(2):
            client.expire("gc:lease:job", int(LONG_S))
            wait_until(lambda: client.ttl("gc:lease:job") <= KEPT_S, "a renewal")
        assert not lost.is_set()
        assert is_held(client, "job")

    # then
    assert not is_held(client, "job")


def test_the_holder_is_told_when_its_lease_was_lost(client):
    lease, successor = Lease(client, "job", SHORT_S), Lease(client, "job", LONG_S)
    lease.acquire()
    with lease.kept() as lost:
        lapse(client, "job")
        successor.acquire()
        assert lost.wait(timeout=30)
    assert successor.renew(), "the end of the block must not end the successor's lease"
