"""Back-pressure and the time left: a full project is told so and keeps nobody else out; deaf workers are noticed.

Called by: pytest. Must not import: torch.
"""

import pytest

from backend.app import create_app
from contract.eta import job_eta_s, project_eta_s
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.jobs import predict_job
from tests.fakes.recorded import recorded, tasks_like
from worker.deafness import Ears

CREATED = recorded("webhook-tasks-created").body
BATCH = recorded("predict-batch").body


@pytest.fixture
def api(redis_url, client):
    facts = {"REDIS_URL": redis_url, "LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token"}
    model = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
    return create_app(read_settings(facts | model | {"MAX_WAITING_PER_PROJECT": "5"})).test_client()


def events(count, project_id):
    project = CREATED["project"] | {"id": project_id}
    return CREATED | {"project": project, "tasks": tasks_like(CREATED["tasks"][0], count)}


def test_a_full_project_is_told_so_and_others_are_served(api):
    # given a project whose five places are taken
    assert api.post("/webhook", json=events(5, project_id=1)).status_code == 200

    # when / then its next ones are refused, with a reason and a time, in either way of asking
    asked = BATCH | {"tasks": tasks_like(BATCH["tasks"][0], 2)}
    for answer in (api.post("/webhook", json=events(6, project_id=1)), api.post("/predict", json=asked)):
        assert (answer.status_code, answer.json["code"]) == (503, "queue_full")
        assert "MAX_WAITING_PER_PROJECT=5 jobs of project 1 are waiting" in answer.json["message"]
        assert int(answer.headers["Retry-After"]) > 0

    # and another project has all of its own
    assert api.post("/webhook", json=events(5, project_id=2)).status_code == 200


def test_the_time_left_is_what_is_open_over_the_pace_of_the_last_minutes(client, still_clock):
    records = JobRecords(client, failed_memory_s=0)
    jobs = [predict_job(number) for number in range(10)]
    records.admit(jobs)
    assert project_eta_s(records, 1) is None  # nothing gets done yet, so nobody can say
    for job in jobs[:4]:
        records.start(job, redelivered=False, worker="w")
        records.finish(job.id, job.run, 1, boxes=0)
    pace = records.pace()[1]
    assert project_eta_s(records, 1) == round(6 / pace, 1)
    assert job_eta_s(records, jobs[4].id) < job_eta_s(records, jobs[9].id) == project_eta_s(records, 1)
    assert job_eta_s(records, jobs[0].id) is None  # it is done
    assert project_eta_s(records, 2) == 0.0


@pytest.mark.parametrize(("waiting", "slots", "deaf"), [(1, 1, True), (0, 1, False), (1, 0, False)])
def test_a_worker_is_deaf_if_jobs_wait_while_it_has_a_free_slot(client, waiting, slots, deaf):
    ears = Ears(client, "worker-1@here", ["predict.bulk.1"], slots=slots, leave=print, after_s=0)
    if waiting:
        client.lpush("predict.bulk.1", "a message")
    assert ears.is_deaf() is deaf
