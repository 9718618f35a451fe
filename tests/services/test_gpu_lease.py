"""One GPU a worker: eight processes, each with a host name of its own, race for four GPUs through a real Redis."""

import os
import signal
from collections import Counter
from contextlib import ExitStack

import pytest

from contract.settings import read_settings
from tests.services.gpu_holder import GIB, UUIDS, Holder, holding, race
from tests.services.waiting import wait_until
from worker.gpu_lease import VISIBLE, lease_gpu
from worker.gpu_seats import Guest, find_places
from worker.gpus import Gpu, list_gpus


@pytest.fixture
def holders(redis_url, client):
    """Makes holders, which are ended after the test."""
    with ExitStack() as stack:

        def start(count: int, sharing: str, ttl_s: float = 600.0) -> list[Holder]:
            return stack.enter_context(holding(redis_url, sharing, *["worker"] * count, ttl_s=ttl_s))

        yield start


def test_eight_workers_of_eight_hosts_share_four_gpus_evenly(holders):
    said = race(holders(8, "share"))
    assert Counter(facts["leased"] for facts in said) == dict.fromkeys(UUIDS, 2)
    assert len({facts["host"] for facts in said}) == 8
    assert all(facts["visible"] == facts["leased"] for facts in said)
    assert not any(facts["torch"] for facts in said), "CUDA_VISIBLE_DEVICES must be set before torch is imported"


def test_with_refuse_four_get_one_each_and_four_are_told_what_to_do(holders):
    said = race(holders(8, "refuse"))
    assert sorted(facts["leased"] for facts in said if "leased" in facts) == sorted(UUIDS)
    refusals = [facts["refused"] for facts in said if "refused" in facts]
    assert len(refusals) == 4
    assert all("start fewer workers" in refusal for refusal in refusals)


def test_after_kill_9_a_waiting_worker_takes_over_when_the_lease_has_lapsed(holders, client):
    # given four workers that hold a GPU each, and one that waits
    *first, waiting = holders(5, "wait", ttl_s=9.0)  # the living ones have six seconds to renew theirs
    held = {facts["leased"]: holder for facts, holder in zip(race(first), first, strict=True)}
    assert sorted(held) == sorted(UUIDS)
    waiting.go()

    # when one is killed
    held["GPU-2"].process.send_signal(signal.SIGKILL)

    # then its GPU, and no other, goes to the waiting one
    assert waiting.says()["leased"] == "GPU-2"
    assert all(client.exists(f"gc:lease:gpu:{uuid}:0") for uuid in UUIDS), "the living ones renewed theirs meanwhile"


def test_a_worker_that_ends_frees_its_gpu_at_once(holders, client):
    (holder,) = holders(1, "refuse")
    leased = race([holder])[0]["leased"]
    holder.go()
    assert holder.says()["released"] == leased
    assert not client.exists(f"gc:lease:gpu:{leased}:0")


def test_a_worker_ends_when_another_one_has_its_gpu(holders, client):
    # given a worker whose lease lapsed unnoticed, as while its machine slept
    (holder,) = holders(1, "refuse", ttl_s=1.0)
    leased = race([holder])[0]["leased"]
    client.set(f"gc:lease:gpu:{leased}:0", "someone else")

    # then it does not work on beside the other one
    wait_until(lambda: holder.process.poll() == 3, "the end of the process")


def test_sharers_go_where_most_memory_is_left_for_one_more(client):
    # given a big and a small GPU, each with a worker
    big, small = Gpu("GPU-b", "", 70 * GIB, 80 * GIB), Gpu("GPU-a", "", 10 * GIB, 16 * GIB)
    for gpu in (big, small):
        client.set(f"gc:lease:gpu:{gpu.uuid}:0", "a worker")
    places = find_places(client, [small, big], Guest("me", training=False, shares=True))
    assert [place.gpu for place in places] == [big, small]
    assert find_places(client, [small, big], Guest("me", training=False, shares=False)) == []


@pytest.mark.parametrize(("device", "visible"), [("cpu", None), ("cuda:1", None), ("auto", "GPU-7")])
def test_who_chose_a_device_keeps_it(client, monkeypatch, device, visible):
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible:
        monkeypatch.setenv(VISIBLE, visible)
    lease = lease_gpu(client, read_settings({"DEVICE": device}), lost=pytest.fail,
                      gpus=lambda: [Gpu("GPU-0", "", GIB, GIB)])  # fmt: skip
    assert lease is None
    assert os.environ.get(VISIBLE) == visible


def test_a_machine_without_a_driver_has_no_gpus_to_lease():
    assert all(gpu.uuid.startswith(("GPU-", "MIG-")) for gpu in list_gpus())
