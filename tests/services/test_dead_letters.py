"""Dead letters: what is given up is kept with its reason, can be sent again or dropped; nothing is dropped silently."""

import json

import pytest

from contract.broker import UNACKED_KEY, make_celery, queue_depths
from contract.delayed import Delayed
from contract.errors import LabelStudioRefused, Poison, UnknownJob
from contract.jobs import WRITE_QUEUE, bulk_queue
from contract.results import Results
from contract.settings import read_settings
from contract.status import JobRecords
from groundcrew.dead_letters import drop_dead, list_dead, replay_dead
from tests.fakes.jobs import predict_job, write_job
from worker.tasks import DEATHS_OF_POISON, Crew, predict
from worker.unclaimed import Unclaimed

QUEUE = bulk_queue(1, 8)


@pytest.fixture
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url, "QUEUE_SHARDS": "8"})


@pytest.fixture
def crew(settings, client):
    return Crew(app=make_celery(settings), records=JobRecords(client, failed_memory_s=600), results=Results(client),
                delayed=Delayed(client), shards=8, name="worker-1@test")  # fmt: skip


def letters(settings):
    return [(row["code"], row["attempts"]) for row in list_dead(settings)["dead"]]


def test_a_job_that_killed_its_worker_three_times_alone_is_buried_and_can_be_replayed(crew, client, settings):
    # given a job that was running alone each time its worker died
    job = predict_job(1)
    crew.records.admit([job])
    for _ in range(DEATHS_OF_POISON):
        assert crew.records.count_death(job) != DEATHS_OF_POISON
        crew.records.start(job, redelivered=True, worker="w", alone=True)

    # when it comes once more
    predict(crew, job, redelivered=True)

    # then it is not run, but kept, until someone sends it again
    assert crew.records.get(job.id)["code"] == "poison"
    assert letters(settings) == [("poison", 1)]
    assert replay_dead(settings, [job.id]) == {"replayed": [f"{job.id}.{job.run}"], "refused": []}
    assert (client.llen(QUEUE), letters(settings)) == (1, [])
    assert crew.records.get(job.id)["state"] == "queued"


def test_deaths_beside_other_jobs_blame_nobody(crew):
    job = predict_job(1)
    crew.records.admit([job])
    for _ in range(10):
        crew.records.start(job, redelivered=True, worker="w", alone=False)
        assert crew.records.count_death(job) == 0


def test_a_message_that_came_back_from_a_worker_that_never_started_it_counts_no_death(crew):
    job = predict_job(1)
    crew.records.admit([job])
    assert crew.records.count_death(job) is None


def test_boxes_that_label_studio_refused_are_replayed_as_a_write_that_looks_first(crew, client, settings):
    # given a prediction that was refused
    job = predict_job(1)
    crew.records.admit([job])
    crew.records.dead.bury(write_job(1, id=job.id, run=job.run), LabelStudioRefused("no"), attempts=2)
    crew.records.fail(job.id, job.run, 1, LabelStudioRefused("no"))

    # when / then
    assert len(replay_dead(settings, [], every=True)["replayed"]) == 1
    (message,) = client.lrange(WRITE_QUEUE, 0, -1)
    assert json.loads(json.loads(message)["body"])[1]["job"]["verify"] is True
    assert crew.records.get(job.id)["state"] == "queued"


def test_letters_are_dropped_by_id_or_all(crew, settings):
    for number in (1, 2, 3):
        crew.records.dead.bury(predict_job(number), Poison(), attempts=3)
    drop_dead(settings, [list_dead(settings)["dead"][0]["id"]])
    assert len(letters(settings)) == 2
    drop_dead(settings, [], every=True)
    assert letters(settings) == []
    with pytest.raises(UnknownJob):
        drop_dead(settings, ["p1-t1-00000000"])


def test_what_a_dead_worker_held_goes_back_and_what_a_living_one_holds_stays(crew, client, settings):
    # given two messages in hand, of which one has a living owner
    for job in (predict_job(1), predict_job(2)):
        crew.send(job)
        message = json.loads(client.rpop(QUEUE))
        tag = message["properties"]["delivery_tag"]
        client.hset(UNACKED_KEY, tag, json.dumps([message, "", QUEUE]))
        client.zadd("unacked_index", {tag: 1})
    client.zadd("gc:alive", {"worker-2@test": 4e9})
    client.set("gc:held:worker-2@test", json.dumps([tag]))

    # when / then
    unclaimed = Unclaimed(crew.app, client, after_s=0)
    assert (unclaimed.give_back(), unclaimed.give_back()) == (1, 0)
    assert (client.llen(QUEUE), client.hkeys(UNACKED_KEY)) == (1, [tag])
    assert json.loads(client.rpop(QUEUE))["headers"]["redelivered"] is True
    assert queue_depths(client, 8)[QUEUE] == 0
