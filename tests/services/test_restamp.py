"""After a promotion waiting jobs run under the new version: with a real Redis and a real registry of small files."""

from pathlib import Path

import pytest

from contract.jobs import bulk_queue, job_id
from contract.registry import Registry
from contract.restamp import restamp, send_anew
from contract.settings import read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.jobs import predict_job
from tests.fakes.versions import card, version_files

XML = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="red circle"/></RectangleLabels></View>"""
PROJECT = 3


@pytest.fixture
def settings(redis_url, tmp_path):
    made = read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/9", "MODEL_DIR": str(tmp_path / "models")})
    HandWorker(made).redis.flushdb()
    return made


@pytest.fixture
def worker(settings):
    return HandWorker(settings)


@pytest.fixture
def registry(settings, tmp_path: Path):
    """With two versions of project 3, none of them current."""
    made = Registry(settings)
    for number in (1, 2):
        made.publish(version_files(tmp_path, str(number)), card(number))
    return made


@pytest.fixture
def job(worker):
    """Makes a job of the base version that a worker has just started."""

    def make(**fields):
        config_id = worker.crew.records.save_config(XML, {})
        made = predict_job(7, project_id=PROJECT, config_id=config_id, **fields)
        worker.crew.records.admit([made])
        worker.crew.records.start(made, redelivered=False, worker="w")
        return made

    return make


def send_as_worker(worker, old, newer):
    send_anew(old, newer, worker.crew.records, worker.crew.results, worker.crew.send)


def state(worker, job):
    return worker.crew.records.get(job.id)["state"]


def test_a_job_of_the_current_version_is_left_alone(worker, registry, job):
    assert restamp(job(), registry, worker.crew.records) is None
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    newest = job(model="tiny-shapes-p3-1", model_version="tiny-shapes-p3-1.00000000")
    assert restamp(newest, registry, worker.crew.records) is None
    assert restamp(job(model="tiny-shapes-p3-2"), registry, worker.crew.records) is None, "newer than this worker knows"


def test_a_waiting_job_is_replaced_by_one_of_the_new_version(worker, registry, job):
    # given a job of the base, and a promotion
    old = job()
    registry.promote(PROJECT, "tiny-shapes-p3-1")

    # when
    newer = restamp(old, registry, worker.crew.records)
    send_as_worker(worker, old, newer)

    # then
    assert newer.model == "tiny-shapes-p3-1"
    assert newer.model_version.startswith("tiny-shapes-p3-1.")
    assert newer.id == job_id(PROJECT, 7, newer.model_version) != old.id
    assert (state(worker, old), state(worker, newer)) == ("cancelled", "queued")
    assert f"asked again as {newer.id}" in worker.crew.records.get(old.id)["reason"]
    assert worker.run(worker.take(bulk_queue(PROJECT, 8))) == newer
    (written,) = worker.written()
    assert written.prediction.model_version == newer.model_version


def test_it_joins_the_job_that_was_asked_for_under_the_new_version_meanwhile(worker, registry, job):
    # given a retrieval that made the new job already
    old = job()
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    newer = restamp(old, registry, worker.crew.records)
    worker.crew.records.admit([newer.model_copy(update={"run": "other"})])

    # when
    send_as_worker(worker, old, newer)

    # then
    assert worker.waiting() == 0
    assert state(worker, old) == "cancelled"


def test_doing_it_again_after_a_death_in_between_changes_nothing(worker, registry, job):
    old = job()
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    for _ in range(2):
        send_as_worker(worker, old, restamp(old, registry, worker.crew.records))
    assert worker.waiting() == 1


def test_whoever_waits_for_an_opened_task_is_told_at_once_and_the_writer_delivers_soon(worker, registry, job):
    # given someone at the screen
    old = job(delivery="claim")
    registry.promote(PROJECT, "tiny-shapes-p3-1")

    # when
    newer = restamp(old, registry, worker.crew.records)
    send_as_worker(worker, old, newer)

    # then
    assert worker.redis.llen(f"gc:ready:{old.id}:{old.run}") == 1, "the one who waits is woken"
    assert worker.crew.results.wait(old, 60) is None
    assert (newer.delivery, newer.urgent) == ("write", True)


def test_boxes_kept_until_asked_for_are_kept_under_the_new_version(worker, registry, job):
    old = job(delivery="hold")
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    send_as_worker(worker, old, restamp(old, registry, worker.crew.records))
    newer = worker.run(worker.take())
    assert worker.crew.results.get(newer).model_version == newer.model_version


def test_an_interactive_job_runs_at_once_with_the_new_version(worker, registry, job):
    old = job(delivery="answer")
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    newer = restamp(old, registry, worker.crew.records)
    assert (newer.id, newer.run, newer.model) == (old.id, old.run, "tiny-shapes-p3-1")


def test_after_a_rollback_jobs_go_back(worker, registry, job):
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    registry.rollback(PROJECT)
    old = job(model="tiny-shapes-p3-1", model_version="tiny-shapes-p3-1.00000000")
    assert restamp(old, registry, worker.crew.records).model == "tiny-shapes-1"


def test_the_stamp_is_the_one_that_setup_gives(worker, registry, job, settings):
    from backend.models import ModelCards

    old = job()
    registry.promote(PROJECT, "tiny-shapes-p3-1")
    newer = restamp(old, registry, worker.crew.records)
    assert newer.model_version == ModelCards(settings).look_up(PROJECT, XML).model_version
