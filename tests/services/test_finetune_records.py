"""Records of fine-tunes in a real Redis: one waits and one runs a project, whoever races."""

import threading

import pytest

from contract.broker import connect_redis
from contract.errors import TokenMissing, UnknownJob
from contract.finetune import FinetuneRecords, is_finetune, new_finetune
from contract.settings import read_settings


@pytest.fixture
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/6"})


@pytest.fixture
def client(settings):
    with connect_redis(settings) as client:
        client.flushdb()
        yield client


@pytest.fixture
def records(client):
    return FinetuneRecords(client)


@pytest.fixture
def started(records):
    """A running fine-tune of project 3."""
    job = new_finetune(3, "cli")
    records.request(job)
    assert records.start(job, "trainer-1") == "started"
    return job


def request(records, project_id=3):
    job = new_finetune(project_id, "label-studio")
    return job, records.request(job)


def test_a_request_waits_and_is_shown(records):
    job, answer = request(records)
    assert answer == (job.id, True)
    assert is_finetune(job.id)
    assert records.waiting(3) == job.id
    shown = records.get(job.id)
    assert (shown["state"], shown["requested_by"], shown["base"]) == ("queued", "label-studio", "")
    assert "loss" not in shown
    assert records.stored_job(job.id) == job


def test_a_second_request_gets_the_one_that_waits(records):
    first, _ = request(records)
    assert request(records)[1] == (first.id, False)
    assert request(records, project_id=4)[1][1], "another project has a place of its own"
    assert [row["id"] for row in records.latest(3)] == [first.id]


def test_of_many_requests_at_once_one_is_created(records):
    # given / when twenty clicks at once
    answers, together = [], threading.Barrier(20)

    def click():
        together.wait()
        answers.append(request(records)[1])

    threads = [threading.Thread(target=click) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # then
    assert [created for _, created in answers].count(True) == 1
    assert {job_id for job_id, _ in answers} == {records.waiting(3)}


def test_one_runs_and_one_waits(records, started):
    # given a running one / when
    waiting, (_, created) = request(records)

    # then it must wait until the other is over
    assert created
    assert request(records)[1] == (waiting.id, False)
    assert records.start(waiting, "trainer-2") == "busy"
    assert (records.running(3), records.waiting(3)) == (started.id, waiting.id)
    assert [row["id"] for row in records.open_jobs()] == [started.id, waiting.id]
    records.finish(started.id, version="tiny-shapes-p3-1", decision="promoted", reason="better")
    assert records.start(waiting, "trainer-2") == "started"
    assert (records.running(3), records.waiting(3)) == (waiting.id, None)


def test_a_job_whose_trainer_died_starts_again(records, started):
    records.progress(started.id, stage="train", iteration=7)
    assert records.start(started, "trainer-2") == "started"
    shown = records.get(started.id)
    assert (shown["state"], shown["worker"], shown["iteration"]) == ("running", "trainer-2", 7)


def test_progress_is_shown_with_its_types(records, started):
    assert records.progress(started.id, stage="train", epoch=2, epochs=12, iteration=30, iterations=120, loss=3.25)
    assert records.progress(started.id, map=0.5, eta_s=90.0, base="tiny-shapes-1")
    shown = records.get(started.id)
    assert {name: shown[name] for name in ("stage", "epoch", "iterations", "loss", "map", "eta_s", "base")} == {
        "stage": "train", "epoch": 2, "iterations": 120, "loss": 3.25, "map": 0.5, "eta_s": 90.0,
        "base": "tiny-shapes-1"}  # fmt: skip
    for wrong in ({"lossy": 1}, {"state": "done"}):
        with pytest.raises(ValueError, match="no field of a fine-tune's record"):
            records.progress(started.id, **wrong)


def test_a_finished_job_cannot_be_changed_any_more(records, started):
    assert records.finish(started.id, version="tiny-shapes-p3-1", decision="refused", reason="mAP fell")
    assert not records.progress(started.id, iteration=8)
    assert not records.fail(started.id, TokenMissing())
    assert not records.cancelled(started.id, "late")
    records.cancel_request(started.id)
    assert not records.is_cancelled(started.id)
    assert records.start(started, "trainer-2") == "over"
    shown = records.get(started.id)
    assert (shown["state"], shown["version"], shown["decision"], shown["reason"]) == (
        "done", "tiny-shapes-p3-1", "refused", "mAP fell")  # fmt: skip
    assert (records.running(3), records.open_jobs()) == (None, [])


def test_a_failure_says_why(records, started):
    assert records.fail(started.id, TokenMissing())
    shown = records.get(started.id)
    assert (shown["state"], shown["code"]) == ("failed", "token_missing")
    assert "LABEL_STUDIO_API_KEY" in shown["reason"]


def test_a_waiting_job_is_cancelled_at_once(records):
    job, _ = request(records)
    records.cancel_request(job.id)
    assert records.get(job.id)["state"] == "cancelled"
    assert records.start(job, "trainer-1") == "over", "its message is dropped"
    assert request(records)[1][1], "its place is free"


def test_a_running_job_is_told_to_stop_and_keeps_its_place_until_it_has(records, started):
    # given / when
    assert not records.is_cancelled(started.id)
    records.cancel_request(started.id)

    # then
    assert records.is_cancelled(started.id)
    assert (records.get(started.id)["state"], records.get(started.id)["cancel_requested"]) == ("running", True)
    assert records.progress(started.id, iteration=9), "it is not over before its trainer says so"
    assert records.cancelled(started.id, "cancelled by hand")
    assert (records.get(started.id)["state"], records.running(3)) == ("cancelled", None)


def test_annotations_are_counted_until_a_job_starts(records):
    assert [records.annotations_seen(3, count) for count in (1, 5, 0)] == [1, 6, 6]
    assert records.annotations_seen(4, 1) == 1
    job, _ = request(records)
    records.start(job, "trainer-1")
    assert records.annotations_seen(3, 2) == 2, "those that came before it are seen by the job"
    records.start(job, "trainer-2")
    assert records.annotations_seen(3) == 2, "a job that starts again has exported already"


def test_an_unknown_job_is_unknown(records):
    for ask in (records.get, records.stored_job, records.cancel_request):
        with pytest.raises(UnknownJob, match="ft-3-00000000"):
            ask("ft-3-00000000")
    assert records.start(new_finetune(3, "cli"), "trainer-1") == "over"
    assert not records.is_cancelled("ft-3-00000000")
