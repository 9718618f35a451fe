"""A training's GPUs: as many as it needs or none, a worker's only where it may share, and no worker waits for it.

Processes with host names of their own, simulated GPUs, a real Redis. Must not import: torch.
Example: pytest tests/services/test_training_gpus.py
"""

import os
import signal
import threading
import time
from collections import Counter

import pytest

from contract.errors import JobCancelled, SettingsError
from contract.leases import owners
from contract.settings import read_settings
from tests.services.gpu_holder import GIB, LONG_S, UUIDS, holding, race
from tests.services.waiting import wait_until
from worker.gpu_lease import VISIBLE, lease_gpus_for_training
from worker.gpu_seats import Guest, find_places, seat_keys, sit_down
from worker.gpus import Gpu
from worker.training_gpus import WAITING, hold_gpus

TTL_S = 9.0  #: renewed every three seconds, on a busy machine a bit later
CANCEL_LIMIT_S = 10.0  #: promised
ALL = [Gpu(uuid, "simulated", 80 * GIB, 80 * GIB) for uuid in UUIDS]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What a lease sets in this process is gone after the test."""
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    monkeypatch.delenv(VISIBLE)


@pytest.fixture
def take(client, redis_url):
    """Leases GPUs for a training in this process; all are freed after the test."""
    held = []

    def lease(sharing, job="ft-1-a", count=1, wait=pytest.fail, gpus=ALL):
        settings = read_settings({"REDIS_URL": redis_url, "GPU_SHARING": sharing})
        os.environ.pop(VISIBLE, None)  # each stands for a process of its own
        held.append(lease_gpus_for_training(client, settings, job, count, wait=wait, lost=pytest.fail,
                                            gpus=lambda: gpus))  # fmt: skip
        return held[-1]

    yield lease
    for one in held:
        one.release()


def put_workers(client, *uuids):
    for uuid in uuids:
        client.set(f"gc:lease:gpu:{uuid}:0", "a worker")


# -- which GPUs ----------------------------------------------------------------------------------------------------


def test_with_four_workers_of_five_hosts_a_training_gets_the_gpu_that_none_of_them_has(redis_url, client):
    with holding(redis_url, "share", "worker", "worker", "worker", "ft-1-a:1") as holders:
        said = race(holders)
        assert sorted(facts["leased"] for facts in said) == sorted(UUIDS)
        assert said[-1]["visible"] == said[-1]["leased"]
        assert not said[-1]["torch"], "CUDA_VISIBLE_DEVICES must be set before torch is imported"


def test_four_trainings_that_race_have_a_gpu_each_and_two_of_two_have_two_each(redis_url, client):
    with holding(redis_url, "wait", *[f"ft-{n}-a:1" for n in range(4)]) as holders:
        assert sorted(facts["leased"] for facts in race(holders)) == sorted(UUIDS)
    client.flushall()
    with holding(redis_url, "wait", "ft-1-a:2", "ft-2-a:2") as holders:
        leased = [facts["leased"].split(",") for facts in race(holders)]
    assert sorted(uuid for pair in leased for uuid in pair) == sorted(UUIDS)


def test_of_those_that_need_three_one_has_three_and_the_others_hold_nothing_while_they_wait(redis_url, client):
    with holding(redis_url, "wait", "ft-1-a:3", "ft-2-a:3", "ft-3-a:3") as holders:
        said = race(holders)
        winner = next(number for number, facts in enumerate(said) if "leased" in facts)
        assert sum("waiting" in facts for facts in said) == 2
        assert len(client.keys("gc:lease:gpu:*")) == 3

        # when it is over, then the next one begins, and then the last one
        holders[winner].go()
        assert "released" in holders[winner].says()
        rest = [holder for holder in holders if holder is not holders[winner]]
        while rest:
            second = wait_for_a_lease(client, rest)
            second.go()
            assert ["leased" in second.says(), "released" in second.says()] == [True, True]
            rest.remove(second)


def wait_for_a_lease(client, holders):
    """Whose job holds three GPUs now."""
    ends_at = time.monotonic() + 120
    while time.monotonic() < ends_at:
        for holder in holders:
            job = next(word for word in holder.process.args if word.endswith(":3")).partition(":")[0]
            if owned_by(client, job) == 3:
                return holder
        time.sleep(0.1)
    raise AssertionError("nobody has taken the three GPUs")


def owned_by(client, job):
    keys = [key for uuid in UUIDS for key in seat_keys(uuid, training=True)]
    return owners(client, keys).count(job)


def test_where_none_is_free_it_shares_the_one_with_most_memory_left(client, take):
    big, small = Gpu("GPU-b", "", 70 * GIB, 80 * GIB), Gpu("GPU-a", "", 10 * GIB, 16 * GIB)
    put_workers(client, big.uuid, small.uuid)
    assert take("share", gpus=[small, big]).uuids == "GPU-b"
    assert os.environ[VISIBLE] == "GPU-b"


def test_two_processes_never_share_one_gpu_with_each_other(client, take):
    put_workers(client, *UUIDS)
    assert len(set(take("share", count=2).uuids.split(","))) == 2
    assert owned_by(client, "ft-1-a") == 2


def test_more_processes_than_gpus_are_refused_with_both_numbers(take):
    with pytest.raises(SettingsError, match=r"processes=5 needs as many GPUs, and the trainer sees 4"):
        take("share", count=5)


def test_with_refuse_it_says_how_many_are_free(client, take):
    put_workers(client, *UUIDS[:3])
    with pytest.raises(SettingsError, match=r"finds 1 free of the 2 it needs"):
        take("refuse", count=2)
    assert owned_by(client, "ft-1-a") == 0


def test_who_comes_between_look_and_lease_is_noticed(client):
    guest = Guest("ft-1-a", training=True, shares=False)
    places = find_places(client, ALL, guest)[:2]
    put_workers(client, places[1].gpu.uuid)
    assert sit_down(client, places, guest, 600) == []
    assert owned_by(client, "ft-1-a") == 0


# -- workers beside trainings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["wait", "refuse"])
def test_a_worker_that_starts_during_a_training_does_not_wait_for_it(redis_url, client, take, sharing):
    # given a training on one of four GPUs, and four workers that start
    training = take(sharing)
    with holding(redis_url, sharing, *["worker"] * 5) as workers:
        for worker in workers[:4]:
            worker.go()
        said = [worker.says() for worker in workers[:4]]

        # then each has a GPU that no other worker has, the last one beside the training
        assert sorted(facts["leased"] for facts in said) == sorted(UUIDS)

        # and a fifth one waits or is refused as ever
        if sharing == "refuse":
            assert "start fewer workers" in race(workers[4:])[0]["refused"]
    assert owned_by(client, "ft-1-a") == 1
    assert training.uuids in UUIDS


def test_workers_prefer_gpus_without_a_training(redis_url, client, take):
    training = take("share")
    with holding(redis_url, "share", *["worker"] * 3) as workers:
        leased = Counter(facts["leased"] for facts in race(workers))
    assert leased == dict.fromkeys(set(UUIDS) - {training.uuids}, 1)


# -- the end of a lease --------------------------------------------------------------------------------------------


def test_after_kill_9_the_same_job_has_its_gpu_at_once_and_another_job_later(redis_url, client, take):
    # given a training on the only GPU that no worker has
    put_workers(client, *UUIDS[:3])
    with holding(redis_url, "wait", "ft-1-a:1", "ft-2-a:1", ttl_s=TTL_S) as (first, other):
        assert race([first])[0]["leased"] == "GPU-3"
        assert "waiting" in race([other])[0]

        # when its process is killed, and another one goes on with the job
        first.process.send_signal(signal.SIGKILL)
        again = take("wait")

        # then it does not wait for its own lease, and the other job still waits
        assert again.uuids == "GPU-3"
        again.release()
        assert other.says()["leased"] == "GPU-3"

        # and where nobody goes on, the lease lapses by itself
        other.process.send_signal(signal.SIGKILL)
        waited = threading.Event()
        assert take("wait", job="ft-3-a", wait=lambda reason: waited.set()).uuids == "GPU-3"
        assert waited.is_set()


def test_a_living_training_keeps_its_gpu_for_longer_than_a_lease_lives(redis_url, client):
    with holding(redis_url, "wait", "ft-1-a:4", "ft-2-a:1", ttl_s=TTL_S) as (first, other):
        race([first])
        assert "waiting" in race([other])[0]
        leases = client.keys("gc:lease:gpu:*")
        assert len(leases) == 4

        # when their ends are moved far away, a renewal is seen by moving them back
        for _ in range(2):
            for key in leases:
                client.expire(key, int(LONG_S))
            wait_until(lambda: max(map(client.ttl, leases)) <= TTL_S, "a renewal of each")
        assert owned_by(client, "ft-1-a") == 4


def test_a_training_ends_when_another_one_has_its_gpu(redis_url, client):
    with holding(redis_url, "wait", "ft-1-a:2", ttl_s=1.0) as (holder,):
        leased = race([holder])[0]["leased"].split(",")
        client.set(f"gc:lease:gpu:{leased[1]}:train:0", "someone else")
        assert holder.process.wait(timeout=120) == 3


# -- waiting -------------------------------------------------------------------------------------------------------


class Job:
    """What hold_gpus() sees of a job."""

    def __init__(self):
        self.reports, self.cancelled, self.waits = [], threading.Event(), threading.Event()
        self.stopping = threading.Event()

    def report(self, **fields):
        self.reports.append(fields)
        if fields.get("stage") == WAITING:
            self.waits.set()

    def look_for_end(self):
        if self.cancelled.is_set():
            raise JobCancelled


def hold(client, job, count, then):
    """Hold GPUs in a thread; `then` gets the error that ended the waiting, or what CUDA sees."""

    def run():
        try:
            with hold_gpus(client, read_settings({"GPU_SHARING": "wait"}), "ft-1-a", count, job, gpus=lambda: ALL):
                then.append(os.environ[VISIBLE])
        except JobCancelled as error:
            then.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_training_that_waits_says_so_once_and_begins_when_a_worker_leaves(client):
    put_workers(client, *UUIDS)
    job, ended = Job(), []
    thread = hold(client, job, 1, ended)
    assert job.waits.wait(30)
    client.delete("gc:lease:gpu:GPU-2:0")
    thread.join(30)
    assert ended == ["GPU-2"]
    assert job.reports == [{"stage": WAITING}, {"gpus": "GPU-2"}]
    assert owned_by(client, "ft-1-a") == 0, "it is freed at the end"


def test_it_is_cancelled_while_it_waits(client):
    put_workers(client, *UUIDS)
    job, ended = Job(), []
    thread = hold(client, job, 1, ended)
    assert job.waits.wait(30)
    job.cancelled.set()
    thread.join(CANCEL_LIMIT_S)
    assert [type(error) for error in ended] == [JobCancelled]


def test_on_a_cpu_there_is_nothing_to_hold(client):
    job = Job()
    with hold_gpus(client, read_settings({"DEVICE": "cpu"}), "ft-1-a", 8, job, gpus=lambda: ALL):
        assert VISIBLE not in os.environ
    with hold_gpus(client, read_settings({}), "ft-1-a", 8, job, gpus=list):
        assert VISIBLE not in os.environ
    assert job.reports == []
