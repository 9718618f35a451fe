"""`groundcrew jobs` with a real Redis: what it counts is what happened, and each failure comes with its reason.

Called by: pytest. Must not import: backend, worker.
Example: pytest tests/services/test_jobs_command.py
"""

import json
import sys

import pytest

from contract.delayed import Delayed
from contract.errors import BrokerUnavailable, ImageNotFound, UnknownJob
from contract.heartbeats import Heartbeat, alive
from contract.projects import ProjectFacts, Projects
from contract.settings import read_settings
from contract.status import JobRecords
from groundcrew.child import free_port
from groundcrew.cli import main
from groundcrew.jobs import show_jobs
from tests.fakes.jobs import VERSION, predict_job
from tests.services.waiting import wait_until


@pytest.fixture
def settings(redis_url):
    return read_settings({"REDIS_URL": redis_url})


@pytest.fixture
def failed_job(client):
    """Project 1 ("Street [old]"): one job failed, one done, one waiting. Project 2: one waiting."""
    records = JobRecords(client, failed_memory_s=600)
    failing, done, waiting, elsewhere = (predict_job(1), predict_job(2), predict_job(3), predict_job(4, project_id=2))
    records.admit([failing, done, waiting, elsewhere])
    for job in (failing, done):
        records.start(job, redelivered=False, worker="w")
    records.finish(done.id, done.run, 1, boxes=3)
    records.fail(failing.id, failing.run, 1, ImageNotFound("there is no image at [that] address"))
    for number, title in ((1, "Street [old]"), (2, "")):
        Projects(client).remember(ProjectFacts(project_id=number, config_id="c", model_version=VERSION, title=title))
    return failing


def run_cli(monkeypatch, settings, *arguments: str) -> int:
    """The command as a person types it; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["groundcrew", "jobs", "--redis-url", settings.redis_url, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_jobs_are_counted_by_project_and_state(settings, failed_job):
    first, second = show_jobs(settings, None, None)["projects"]

    assert first.pop("eta_s") >= 0
    assert first == {"project_id": 1, "title": "Street [old]", "queued": 1, "running": 0, "writing": 0, "done": 1,
                     "failed": 1, "cancelled": 0}  # fmt: skip
    assert (second["project_id"], second["title"], second["queued"]) == (2, "", 1)


def test_one_project_can_be_asked_for(settings, failed_job):
    found = show_jobs(settings, None, 2)

    assert [row["project_id"] for row in found["projects"]] == [2]
    assert found["failures"] == []


def test_failures_come_with_their_reason(settings, failed_job):
    (failure,) = show_jobs(settings, None, None)["failures"]

    assert (failure["id"], failure["code"]) == (failed_job.id, "image_not_found")
    assert failure["reason"] == "there is no image at [that] address"


def test_failures_of_all_projects_are_mixed_by_time_newest_first(settings, client):
    records = JobRecords(client, failed_memory_s=600)
    jobs = [predict_job(number, project_id=1 + number % 2) for number in range(1, 6)]
    for job in jobs:
        Projects(client).remember(ProjectFacts(project_id=job.project_id, config_id="c", model_version=VERSION))
        records.admit([job])
        records.fail(job.id, job.run, job.project_id, ImageNotFound())

    assert [row["id"] for row in show_jobs(settings, None, None)["failures"]] == [job.id for job in reversed(jobs)]


def test_waiting_and_delayed_jobs_and_living_processes_are_shown(settings, client):
    client.rpush("write", "a message", "another")
    Delayed(client).add(predict_job(1), after_s=60)
    heartbeat = Heartbeat(client, "worker-1@here", lambda: {"role": "predict"})
    heartbeat.start()
    wait_until(lambda: alive(client) != [], "the first heartbeat")

    found = show_jobs(settings, None, None)
    heartbeat.stop()

    assert {name: depth for name, depth in found["queues"].items() if depth} == {"write": 2}
    assert found["delayed"] == 1
    assert [process["name"] for process in found["processes"]] == ["worker-1@here"]


def test_one_job_is_shown_with_state_and_reason(settings, failed_job):
    job = show_jobs(settings, failed_job.id, None)

    assert (job["state"], job["code"], job["task_id"]) == ("failed", "image_not_found", 1)


def test_an_unknown_job_and_a_redis_that_is_away_are_told(settings, client):
    with pytest.raises(UnknownJob, match="no job p1-t1-00000000 is known"):
        show_jobs(settings, "p1-t1-00000000", None)
    with pytest.raises(BrokerUnavailable, match="Redis does not answer"):
        show_jobs(read_settings({"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}), None, None)


def test_the_tables_say_it_to_people(settings, failed_job, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    assert run_cli(monkeypatch, settings) == 0

    said = capsys.readouterr().out
    assert "1 Street [old]" in said
    assert "image_not_found: there is no image at [that] address" in said
    assert "Waiting: nothing" in said
    assert "Alive: nobody; start `groundcrew up`" in said


def test_one_job_is_a_table_too(settings, failed_job, monkeypatch, capsys):
    assert run_cli(monkeypatch, settings, failed_job.id) == 0

    said = capsys.readouterr().out
    assert f"Job {failed_job.id}" in said
    assert "there is no image at [that] address" in said


def test_json_is_for_programs(settings, still_clock, failed_job, monkeypatch, capsys):
    assert run_cli(monkeypatch, settings, "--json") == 0

    assert json.loads(capsys.readouterr().out) == show_jobs(settings, None, None)


def test_an_unknown_job_ends_with_1(settings, client, monkeypatch, capsys):
    assert run_cli(monkeypatch, settings, "p1-t1-00000000") == 1

    assert "unknown_job: no job p1-t1-00000000 is known" in capsys.readouterr().err
