"""The writer's loop takes what waits in one step, stores it together, and gives every message its fate. Real Redis."""

import time

import pytest
import redis

from contract.broker import UNACKED_INDEX_KEY, UNACKED_KEY, make_celery
from contract.delayed import Delayed
from contract.envelopes import enclose
from contract.errors import LabelStudioRefused
from contract.jobs import WRITE_QUEUE, WriteBackJob
from contract.results import Results
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.jobs import predict_job, write_job
from tests.fakes.prediction_store import FakePredictionStore
from tests.services.waiting import wait_until
from worker.gather import Gatherer
from worker.intake import Intake
from worker.tasks import Crew
from worker.unclaimed import Unclaimed
from worker.writer import Writer

LIMIT = 64


@pytest.fixture
def store():
    return FakePredictionStore()


@pytest.fixture
def crew(redis_url, client):
    app = make_celery(read_settings({"REDIS_URL": redis_url}))
    return Crew(app=app, records=JobRecords(client, failed_memory_s=600), results=Results(client),
                delayed=Delayed(client), shards=8, name="writer-1@test")  # fmt: skip


@pytest.fixture
def intake(client):
    return Intake(client, WRITE_QUEUE)


@pytest.fixture
def gatherer(crew, client, store, intake):
    gatherer = Gatherer(crew, Writer(store, crew.results, crew.records), intake, limit=LIMIT)
    yield gatherer
    gatherer.stop()


def send(crew, *jobs: WriteBackJob):
    """Recorded as predicted, and queued."""
    for job in jobs:
        known = predict_job(job.prediction.task_id, run=job.run, project_id=job.project_id)
        known = known.model_copy(update={"id": job.id})
        crew.records.admit([known])
        crew.records.start(known, redelivered=False, worker="w")
        crew.records.predicted(known, 0)
    crew.send(*jobs)


def in_project(number, task_id):
    return write_job(task_id, project_id=number, id=f"p{number}-t{task_id}")


def is_settled(client):
    return not (client.llen(WRITE_QUEUE) or client.hlen(UNACKED_KEY) or client.zcard(UNACKED_INDEX_KEY))


def test_what_waits_is_stored_with_one_request_a_project(crew, client, gatherer, store):
    send(crew, *[in_project(1 + n % 2, n) for n in range(40)])
    assert gatherer.gather() == 40
    assert store.requests == [20, 20]
    assert store.tasks() == list(range(40))
    assert [crew.records.counts(n)["done"] for n in (1, 2)] == [20, 20]
    assert (is_settled(client), crew.records.open_count()) == (True, 0)


def test_no_more_than_the_limit_is_in_hand_and_the_oldest_comes_first(crew, client, gatherer, store):
    send(crew, *[write_job(n) for n in range(LIMIT + 10)])
    assert gatherer.gather() == LIMIT
    assert store.tasks() == list(range(LIMIT))
    assert client.llen(WRITE_QUEUE) == 10


def test_what_a_killed_writer_had_taken_comes_back_by_kombus_own_means(crew, client, gatherer, store):
    # given a writer that took messages, whose heartbeat has stopped
    send(crew, write_job(1), write_job(2))
    taken = Intake(client, WRITE_QUEUE).take(LIMIT)
    assert {one.tag for one in taken} == set(client.hkeys(UNACKED_KEY)) == set(client.zrange(UNACKED_INDEX_KEY, 0, -1))

    # when the reconciler gives them back
    assert Unclaimed(crew.app, client, after_s=0).give_back() == 2

    # then the next writer stores them
    assert gatherer.gather() == 2
    assert (store.tasks(), is_settled(client)) == ([1, 2], True)


def test_what_is_in_hand_is_named_until_it_is_done(crew, client, gatherer, store, intake):
    send(crew, write_job(1), write_job(2))
    seen = []
    store.on_store = lambda: seen.append(set(intake.in_hand()) == set(client.hkeys(UNACKED_KEY)))
    gatherer.gather()
    assert (seen, intake.in_hand()) == ([True], [])


def test_when_redis_fails_in_the_middle_the_messages_come_again(crew, client, gatherer, store, intake):
    # given a Redis that goes away once Label Studio has the predictions
    send(crew, write_job(1), write_job(2))

    def fail():
        raise redis.ConnectionError

    store.on_store = fail
    with pytest.raises(redis.ConnectionError):
        gatherer.gather()
    assert (intake.in_hand(), client.hlen(UNACKED_KEY)) == ([], 2)

    # when it is there again
    store.on_store = lambda: None
    Unclaimed(crew.app, client, after_s=0).give_back()
    gatherer.gather()

    # then nothing is lost
    assert (store.tasks(), is_settled(client)) == ([1, 2], True)


def test_while_label_studio_is_away_write_backs_wait_for_their_next_try(crew, client, gatherer, store):
    send(crew, write_job(1), write_job(2))
    store.down = True
    gatherer.gather()
    assert [job.attempt for job in crew.delayed.jobs()] == [1, 1]
    assert (is_settled(client), crew.records.open_count()) == (True, 2)


def test_an_unexpected_error_costs_no_prediction(crew, client, gatherer, store):
    send(crew, write_job(1))

    def fail():
        raise ZeroDivisionError

    store.on_store = fail
    gatherer.gather()
    assert ([job.attempt for job in crew.delayed.jobs()], is_settled(client)) == ([1], True)


def test_a_refused_one_is_buried_and_a_deleted_one_cancelled_beside_one_that_is_stored(crew, client, gatherer, store):
    refused, deleted, stored = write_job(1), write_job(2), write_job(3)
    send(crew, refused, deleted, stored)
    store.unknown_tasks = {1}
    crew.records.mark_deleted(1, [2])
    gatherer.gather()
    assert [crew.records.get(job.id)["state"] for job in (refused, deleted, stored)] == ["failed", "cancelled", "done"]
    assert [letter.code for letter in crew.records.dead.list()] == [LabelStudioRefused.code]
    assert (store.tasks(), is_settled(client)) == ([3], True)


def test_of_two_messages_of_one_task_the_second_is_settled_later_and_nothing_is_doubled(crew, client, gatherer, store):
    job = write_job(1)
    send(crew, job)
    crew.send(job)
    gatherer.gather()
    assert (store.tasks(), crew.delayed.count(), is_settled(client)) == ([1], 1, True)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda text: text.replace('"groundcrew.write_back"', '"groundcrew.unheard_of"'), "groundcrew.unheard_of"),
    (lambda text: text.replace(r'\"task_id\":7', r'\"task_id\":\"seven\"'), "prediction.task_id"),
    (lambda text: text.replace(r'[[],{\"job\"', r'[[,{\"job\"'), "cannot be read: JSONDecodeError"),
    (lambda text: text.replace(r'[[],{\"job\"', r'[[],{\"bob\"'), "cannot be read: KeyError"),
    (lambda text: text.replace('"delivery_tag"', '"deliver"').replace(r'\"task_id\":7', r'\"t\":7'), "task_id"),
    (lambda text: "nonsense", "cannot be read: JSONDecodeError"),
    (lambda text: '["headers"]', "cannot be read: TypeError"),
])  # fmt: skip
def test_messages_that_nobody_understands_are_kept_and_spoil_no_other(crew, client, gatherer, store, change, reason):
    _, message = enclose(write_job(7), shards=8)
    assert change(message) != message
    send(crew, write_job(1))
    client.lpush(WRITE_QUEUE, change(message))
    send(crew, write_job(2))
    gatherer.gather()
    (letter,) = crew.records.dead.list()
    assert (letter.code, reason in letter.reason) == ("bad_message", True), letter
    assert (store.tasks(), is_settled(client)) == ([1, 2], True)


def test_a_message_that_celery_itself_sent_is_read_too(crew, client, gatherer, store):
    crew.app.send_task(WriteBackJob.name, kwargs={"job": write_job(7).to_json()}, queue=WRITE_QUEUE)
    gatherer.gather()
    assert (store.tasks(), is_settled(client)) == ([7], True)


def test_waiting_for_a_message_moves_none(crew, client, intake):
    crew.send(write_job(1), write_job(2))
    before = client.lrange(WRITE_QUEUE, 0, -1)
    intake.wait(1.0)
    assert client.lrange(WRITE_QUEUE, 0, -1) == before


def store_alone(crew: Crew, task: int) -> float:
    """Seconds until a prediction that came alone was stored."""
    began_s = time.monotonic()
    send(crew, write_job(task))
    wait_until(lambda: crew.records.counts(1)["done"] == task, "it to be stored")
    return time.monotonic() - began_s


def test_one_alone_is_stored_at_once_and_after_a_stop_nothing_is_taken(crew, client, gatherer, store):
    # given a writer that waits for work
    gatherer.start()

    # when one prediction comes / then it is stored within a second, but for a busy machine, which is not busy each time
    done = next((task for task in range(1, 31) if store_alone(crew, task) < 1), 0)
    assert done, "each of thirty took longer"

    # then after a stop the next one stays in its queue
    gatherer.stop()
    crew.send(write_job(done + 1))
    assert (store.tasks(), client.llen(WRITE_QUEUE)) == ([*range(1, done + 1)], 1)
