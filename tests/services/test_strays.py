"""A real worker process buries what it cannot understand: unknown names, malformed jobs, bodies that are not JSON."""

import sys

import pytest

from contract.broker import UNACKED_KEY
from contract.envelopes import enclose
from contract.heartbeats import alive
from contract.jobs import bulk_queue
from contract.settings import read_settings, to_environment
from groundcrew.child import Child, bare_environment
from groundcrew.dead_letters import list_dead
from tests.fakes.jobs import predict_job
from tests.services.machine import REPOSITORY
from tests.services.waiting import wait_until


@pytest.fixture(scope="module")
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url})


@pytest.fixture(scope="module")
def consuming(settings, tmp_path_factory):
    """A worker that consumes all bulk queues."""
    env = bare_environment(to_environment(settings)) | {"PYTHONPATH": str(REPOSITORY)}
    log = tmp_path_factory.mktemp("strays") / "worker.log"
    worker = Child.start([sys.executable, "-m", "benchmarks.faults_worker"], env=env, log_path=log)
    yield worker
    worker.stop()


@pytest.mark.parametrize(("change", "code"), [
    (lambda text: text.replace('"groundcrew.predict"', '"groundcrew.unheard_of"'), "no task is called"),
    (lambda text: text.replace(r'\"task_id\":7', r'\"task_id\":\"seven\"'), "task_id"),
    (lambda text: text.replace('"application/json"', '"application/x-python-serialize"'), "cannot be read"),
    (lambda text: text.replace(r'[[],{\"job\"', r'[[,{\"job\"'), "cannot be read: DecodeError"),
    (lambda text: text.replace(r'[[],{\"job\"', r'[[],{\"bob\"'), "job"),
])  # fmt: skip
def test_messages_that_nobody_understands_are_kept(client, settings, consuming, change, code):
    wait_until(lambda: alive(client), "the worker", consuming.log_tail)
    queue = bulk_queue(1, settings.queue_shards)
    _, message = enclose(predict_job(7), shards=settings.queue_shards)
    assert change(message) != message
    client.lpush(queue, change(message))
    wait_until(lambda: list_dead(settings)["dead"], "the dead letter", consuming.log_tail)
    (row,) = list_dead(settings)["dead"]
    assert (row["code"], code in row["reason"]) == ("bad_message", True), row
    wait_until(lambda: client.hlen(UNACKED_KEY) == 0, "its acknowledgement")
