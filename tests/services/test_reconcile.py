"""What Redis and Celery may lose comes back, and what waits for its time is sent once it has come."""

import pytest

from contract.broker import make_celery, queue_depths
from contract.delayed import Delayed
from contract.jobs import WRITE_QUEUE, bulk_queue
from contract.leases import lease_key
from contract.results import Results
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.jobs import predict_job, write_job
from tests.services.waiting import wait_until
from worker.reconcile import LEADER, Reconciler
from worker.tasks import Crew

QUEUE = bulk_queue(1, 8)


@pytest.fixture
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url})


@pytest.fixture
def crew(settings, client):
    return Crew(app=make_celery(settings), records=JobRecords(client, failed_memory_s=600), results=Results(client),
                delayed=Delayed(client), shards=8, name="writer-1@test")  # fmt: skip


@pytest.fixture
def reconciler(crew, client):
    return Reconciler(crew, client, missing_for_s=0)


def enqueue(crew, *task_ids):
    jobs = [predict_job(n) for n in task_ids]
    crew.send(*crew.records.admit(jobs))
    return jobs


def test_nothing_is_sent_twice_while_every_message_is_there(crew, client, reconciler):
    enqueue(crew, 1, 2, 3)
    assert reconciler.send_missing() == 0
    assert client.llen(QUEUE) == 3


def test_a_message_that_was_popped_and_never_recorded_is_sent_again(crew, client, reconciler):
    enqueue(crew, 1, 2, 3)
    client.rpop(QUEUE)  # as kombu does, and then the process is killed before it writes `unacked`
    assert reconciler.send_missing() == 1
    assert client.llen(QUEUE) == 3
    assert reconciler.send_missing() == 0


def test_a_lost_write_back_makes_the_job_run_again(crew, client, reconciler):
    (job,) = enqueue(crew, 1)
    crew.records.start(job, redelivered=False, worker="w")
    crew.records.predicted(job, 2)
    client.delete(QUEUE)
    assert reconciler.send_missing() == 1
    assert crew.records.get(job.id)["state"] == "queued"


def test_a_write_back_that_waits_in_its_queue_speaks_for_its_job(crew, client, reconciler):
    lost, writing = enqueue(crew, 1, 2)
    crew.records.start(writing, redelivered=False, worker="w")
    crew.records.predicted(writing, 1)
    client.delete(QUEUE)
    crew.send(write_job(2, id=writing.id, run=writing.run))
    assert reconciler.send_missing() == 1
    assert crew.records.get(writing.id)["state"] == "writing"
    assert crew.records.get(lost.id)["state"] == "queued"


def test_messages_of_other_jobs_do_not_hide_a_lost_one(crew, client, reconciler):
    # given one lost message, and more messages than open jobs: of jobs that are over, and of an earlier run
    (lost, waiting) = enqueue(crew, 1, 2)
    client.delete(QUEUE)
    crew.send(waiting, write_job(3), write_job(4), write_job(5), write_job(1, id=lost.id, run="earlier"))

    # when / then only the lost one is sent again
    assert reconciler.send_missing() == 1
    assert client.llen(QUEUE) == 2


def test_a_delayed_retry_speaks_for_its_job(crew, client, reconciler):
    (lost, waiting) = enqueue(crew, 1, 2)
    client.delete(QUEUE)
    crew.delayed.add(waiting, after_s=1000)
    assert reconciler.send_missing() == 1
    assert [crew.records.get(j.id)["state"] for j in (lost, waiting)] == ["queued", "queued"]


def test_delayed_jobs_are_sent_when_due_and_only_then(crew, client, reconciler):
    crew.delayed.add(write_job(1), after_s=-1)
    crew.delayed.add(write_job(2), after_s=1000)
    assert reconciler.send_due() == 1
    assert (client.llen(WRITE_QUEUE), crew.delayed.count()) == (1, 1)
    assert reconciler.send_due() == 0


def test_one_leads_and_the_next_takes_over_when_it_stops(crew, client):
    first, second = Reconciler(crew, client), Reconciler(crew, client)
    first.start()
    wait_until(lambda: client.get(lease_key(LEADER)) is not None, "a leader")
    leader = client.get(lease_key(LEADER))
    second.start()
    crew.delayed.add(write_job(1), after_s=-1)
    wait_until(lambda: client.llen(WRITE_QUEUE) == 1, "what is due")
    assert client.get(lease_key(LEADER)) == leader
    first.stop()
    crew.delayed.add(write_job(2), after_s=-1)
    wait_until(lambda: client.llen(WRITE_QUEUE) == 2, "what is due next")
    second.stop()
    assert client.get(lease_key(LEADER)) is None


def test_queue_depths_name_every_queue(crew, client):
    enqueue(crew, 1, 2)
    assert queue_depths(client, 8)[QUEUE] == 2


def test_a_lost_message_that_nobody_waits_for_any_more_is_cancelled(crew, reconciler):
    job = predict_job(1, delivery="answer", expires_at_s=1.0)
    crew.records.admit([job])
    assert reconciler.send_missing() == 0
    assert crew.records.get(job.id)["state"] == "cancelled"
