"""What contract.envelopes writes is what kombu and Celery read."""

import json
from datetime import UTC, datetime

import pytest
from celery import Celery
from celery.worker.request import Request
from kombu import Connection

from contract.envelopes import enclose
from contract.jobs import PredictJob, WriteBackJob, bulk_queue
from tests.fakes.jobs import predict_job, write_job


def run(job):
    """What the tasks of this test do."""


@pytest.fixture
def app():
    app = Celery("test", broker="memory://", set_as_current=False)
    for kind in (PredictJob, WriteBackJob):
        # not shared: Celery would give it to every app made after this one, and so to other tests
        app.task(name=kind.name, shared=False)(run)
    return app


def received(app, job):
    """The job as a worker's main loop sees it."""
    _, message = enclose(job, shards=8)
    with Connection("memory://") as connection, connection.channel() as channel:
        arrived = channel.Message(json.loads(message), channel=channel)
        return Request(arrived, app=app, task=app.tasks[job.name])


@pytest.mark.parametrize(
    "job", [predict_job(7, image="/data/upload/1/红灯.png"), write_job(7)], ids=["predict", "write"]
)
def test_a_worker_gets_the_task_its_id_and_the_job(app, job):
    request = received(app, job)
    assert request.name == job.name
    assert request.id.removeprefix("w.") == f"{job.id}.{job.run}"
    assert type(job).model_validate(request.kwargs["job"]) == job
    assert request.args == []


def test_a_job_whose_caller_goes_is_dropped_by_celery_at_that_moment(app):
    request = received(app, predict_job(7, delivery="answer", expires_at_s=4_000_000_000.0))
    assert request.expires == datetime.fromtimestamp(4_000_000_000, UTC)


def test_a_message_goes_to_the_queue_of_its_job_and_says_so_when_it_is_delivered_again(app):
    queue, message = enclose(predict_job(7), shards=8)
    assert queue == bulk_queue(1, 8)
    assert json.loads(message)["properties"]["delivery_info"] == {"exchange": "", "routing_key": queue}


def test_two_messages_of_one_run_have_tags_of_their_own():
    job = predict_job(7)
    tags = {json.loads(enclose(job, shards=8).message)["properties"]["delivery_tag"] for _ in range(2)}
    assert len(tags) == 2


def test_logs_and_flower_never_see_an_address():
    _, message = enclose(predict_job(7, image="https://images.example/secret.png"), shards=8)
    assert "secret" not in json.dumps(json.loads(message)["headers"])
