"""Job records and results in a real Redis: one run at a time, one deliverer, nothing forgotten."""

import threading
import time

import pytest
import redis

from contract.broker import connect_redis
from contract.errors import ImageNotFound, ImageUnavailable, UnknownJob
from contract.finetune import FinetuneRecords, new_finetune
from contract.heartbeats import TTL_S, Heartbeat, alive
from contract.jobs import Prediction
from contract.results import Results
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.jobs import predict_job, write_job
from tests.services.waiting import wait_until


@pytest.fixture
def records(client):
    return JobRecords(client, failed_memory_s=600)


@pytest.fixture
def results(client):
    return Results(client)


def test_a_job_under_way_is_not_admitted_again(records):
    job = predict_job(1)
    assert records.admit([job, predict_job(2)]) != []
    assert records.admit([predict_job(1)]) == []
    assert records.counts(1)["queued"] == 2


def test_a_finished_job_may_run_again_as_a_new_run(records):
    first, second = predict_job(1), predict_job(1)
    records.admit([first])
    records.start(first, redelivered=False, worker="w")
    records.finish(first.id, first.run, 1, boxes=3)
    assert records.get(first.id)["state"] == "done"
    assert records.admit([second]) == [second]
    assert not records.finish(first.id, first.run, 1, boxes=9), "the old run must not touch the new one"
    assert records.get(first.id)["state"] == "queued"


def test_a_failed_job_is_remembered_for_a_while_then_tried_again(client):
    job = predict_job(1)
    records = JobRecords(client, failed_memory_s=600)
    records.admit([job])
    records.start(job, redelivered=False, worker="w")
    records.fail(job.id, job.run, 1, ImageNotFound("gone"))
    assert records.admit([predict_job(1)]) == []
    assert JobRecords(client, failed_memory_s=0).admit([predict_job(1)]) != []


def test_a_failure_says_code_and_reason_and_is_listed(records):
    job = predict_job(1)
    records.admit([job])
    records.fail(job.id, job.run, 1, ImageNotFound("no such image (404)"))
    found = records.get(job.id)
    assert (found["state"], found["code"], found["reason"]) == ("failed", "image_not_found", "no such image (404)")
    assert found["task_id"] == 1
    assert records.recent_failures(1) == [found]


def test_reasons_are_kept_without_secrets(records, client):
    # given an error whose words hold a presigned address, as those that we do not know may
    error, job = ImageUnavailable("GET https://bucket/a.png?X-Amz-Signature=s1gnature failed"), predict_job(1)
    finetunes, tune = FinetuneRecords(client), new_finetune(1, "cli")

    # when it is kept in every place where a reason is
    records.admit([job])
    records.start(job, redelivered=False, worker="w")
    records.retry_later(job, error)
    reasons = [records.get(job.id)["reason"]]
    records.fail(job.id, job.run, 1, error)
    records.dead.bury(job, error, attempts=1)
    finetunes.request(tune)
    finetunes.fail(tune.id, error)
    reasons += [records.get(job.id)["reason"], records.dead.list()[0].reason, finetunes.get(tune.id)["reason"]]

    # then
    assert reasons == ["GET https://bucket/a.png?*** failed"] * 4


def test_only_one_message_of_a_run_starts_unless_it_was_redelivered(records):
    job = predict_job(1)
    records.admit([job])
    assert records.start(job, redelivered=False, worker="a")
    assert not records.start(job, redelivered=False, worker="b")
    assert records.start(job, redelivered=True, worker="b")
    records.predicted(job, 2)
    assert not records.start(job, redelivered=True, worker="b"), "its boxes are on their way already"


def test_counts_follow_every_move(records):
    jobs = [predict_job(n) for n in range(4)]
    records.admit(jobs)
    for job in jobs[:3]:
        records.start(job, redelivered=False, worker="w")
    records.predicted(jobs[0], 1)
    records.finish(jobs[1].id, jobs[1].run, 1, boxes=0)
    records.cancel(jobs[3].id, jobs[3].run, 1, "task deleted")
    assert records.counts(1) == {"queued": 0, "running": 1, "writing": 1, "done": 1, "failed": 0, "cancelled": 1}
    assert sorted(records.open_runs()) == sorted(f"{job.id}.{job.run}" for job in (jobs[0], jobs[2]))


def test_an_unknown_job_is_an_error_that_says_so(records):
    with pytest.raises(UnknownJob, match="no job p9-t9-x is known"):
        records.get("p9-t9-x")


def test_a_deleted_task_is_known_as_deleted(records):
    records.mark_deleted(1, [5, 6])
    assert records.is_deleted(1, 5)
    assert not records.is_deleted(1, 7)
    assert not records.is_deleted(2, 5)


def test_a_label_config_is_stored_once_and_read_back(records):
    saved = records.save_config("<View/>", {"红绿灯": "traffic light"})
    assert saved == records.save_config("<View/>", {"红绿灯": "traffic light"})
    assert records.load_config(saved) == ("<View/>", {"红绿灯": "traffic light"})
    with pytest.raises(UnknownJob):
        records.load_config("0" * 16)


def a_prediction(task_id=1):
    return Prediction(task_id=task_id, model_version="v", score=0.5, result=[{"id": "a"}])


def test_a_waiter_gets_the_result_that_comes_while_it_waits(results):
    job = predict_job(1, delivery="claim")
    threading.Timer(0.1, results.put, (job, a_prediction())).start()
    assert results.wait(job, 60) == a_prediction()


def test_a_waiter_is_woken_by_a_failure_long_before_its_deadline(results):
    job = predict_job(1, delivery="claim")
    threading.Timer(0.1, results.put_failure, (job,)).start()
    started = time.monotonic()
    assert results.wait(job, 60) is None
    assert time.monotonic() - started < 30


def test_waiting_ends_at_the_deadline(results):
    assert results.wait(predict_job(1, delivery="claim"), 0.05) is None


def test_exactly_one_of_many_claims_wins(results):
    job, won = predict_job(1), []
    threads = [threading.Thread(target=lambda: won.append(results.claim(job, "api"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) == 1
    assert results.claimed_by(job) == "api"


def test_without_a_token_the_next_run_finds_what_the_last_one_left(results):
    first, second = predict_job(1, delivery="hold"), predict_job(1, delivery="hold")
    results.put(first, a_prediction())
    assert first.run != second.run
    assert results.get_many([second, predict_job(2, delivery="hold")]) == [a_prediction(), None]


def test_write_marks_tell_runs_apart_but_remember_the_task(results):
    first, again = write_job(1), write_job(1)
    assert results.marks([first]) == [("none", False)]
    results.mark_posting([first])
    assert results.marks([first, again]) == [("posting", False), ("none", False)]
    results.mark_written([first])
    assert results.marks([first, again]) == [("written", True), ("none", True)]


def test_a_write_lock_has_one_owner(results):
    assert results.lock_writes([write_job(1), write_job(2)], "a") == [True, True]
    assert results.lock_writes([write_job(1), write_job(3)], "b") == [False, True]
    results.unlock_writes([write_job(1)], "b")
    assert results.lock_writes([write_job(1)], "c") == [False]  # b never had it
    results.unlock_writes([write_job(1)], "a")
    assert results.lock_writes([write_job(1)], "b") == [True]


def test_a_heartbeat_is_seen_and_goes_with_its_process(client):
    beat = Heartbeat(client, "worker-1@host", lambda: {"role": "predict"})
    beat.start()
    wait_until(lambda: bool(alive(client)), "the first beat")
    (process,) = alive(client)
    assert abs(float(process.pop("beat_s")) - time.time()) < TTL_S
    assert process == {"name": "worker-1@host", "role": "predict"}
    beat.stop()
    assert alive(client) == []


def test_a_redis_that_is_away_is_an_error_within_seconds():
    client = connect_redis(read_settings({"REDIS_URL": "redis://127.0.0.1:1/0"}))
    with pytest.raises(redis.RedisError):
        JobRecords(client, failed_memory_s=1).counts(1)


def test_two_who_wait_for_the_same_job_are_both_woken(results):
    job, found = predict_job(1, delivery="claim"), []
    threads = [threading.Thread(target=lambda: found.append(results.wait(job, 60))) for _ in range(2)]
    for thread in threads:
        thread.start()
    results.put(job, a_prediction())
    for thread in threads:
        thread.join(120)
    assert found == [a_prediction()] * 2
