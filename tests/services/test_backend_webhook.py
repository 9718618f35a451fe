"""/webhook with a real Redis: events start, cancel and record work, and are answered at once.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_backend_webhook.py
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from contract.jobs import EXPAND_QUEUE, PredictJob
from contract.settings import Settings, read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.recorded import NAMES, recorded, tasks_like

TOKEN = {"LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token"}
MODEL = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
CREATED = recorded("webhook-tasks-created").body


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Settings with a token, on a database of its own, emptied for each test."""
    made = read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/7"} | MODEL | TOKEN)
    HandWorker(made).redis.flushdb()
    return made


@pytest.fixture
def worker(settings: Settings) -> HandWorker:
    return HandWorker(settings)


def api(settings: Settings, **changes: object) -> FlaskClient:
    return create_app(settings.model_copy(update=changes)).test_client()


def tell(client: FlaskClient, body: dict[str, Any]) -> str:
    """Send one event; returns what was made of it."""
    answer = client.post("/webhook", json=body)
    assert answer.status_code == 200
    return str(answer.json["outcome"])


def created(count: int) -> dict[str, Any]:
    return CREATED | {"tasks": tasks_like(CREATED["tasks"][0], count)}


def test_new_tasks_are_predicted_without_anyone_asking(settings: Settings, worker: HandWorker) -> None:
    # given / when three tasks are created
    assert tell(api(settings), created(3)) == "tasks being predicted: 3"

    # then a job each waits, with the version that /setup gives
    jobs = [PredictJob.model_validate(worker.take()) for _ in range(3)]
    version = api(settings).post("/setup", json=recorded("setup").body).json["model_version"]
    assert sorted((job.task_id, job.model_version, job.delivery) for job in jobs) == [
        (task_id, version, "write") for task_id in (1, 2, 3)
    ]


def test_5000_new_tasks_are_one_message(settings: Settings, worker: HandWorker) -> None:
    # given / when
    tell(api(settings), created(5000))

    # then a worker fans it out
    assert worker.waiting() == 1
    worker.expand(worker.take(EXPAND_QUEUE))
    assert worker.waiting() == 5000
    assert api(settings).get("/jobs?project=1").json["counts"]["queued"] == 5000


def test_an_event_and_a_retrieval_of_the_same_tasks_make_one_job_each(settings: Settings, worker: HandWorker) -> None:
    # given / when
    tell(api(settings), created(5))
    body = recorded("predict-batch").body
    api(settings).post("/predict", json=body | {"tasks": tasks_like(body["tasks"][0], 5)})

    # then
    assert worker.waiting() == 5


def test_new_tasks_are_left_alone_when_the_setting_says_so(settings: Settings, worker: HandWorker) -> None:
    assert tell(api(settings, predict_new_tasks=False), created(3)) == "recorded; PREDICT_NEW_TASKS is off"
    assert worker.waiting() == 0


def test_without_a_token_boxes_of_new_tasks_are_kept_until_asked_for(settings: Settings, worker: HandWorker) -> None:
    tell(api(settings, label_studio_url=""), created(3))
    jobs = [worker.run(worker.take()) for _ in range(3)]
    assert {job.delivery for job in jobs} == {"hold"}
    assert None not in worker.crew.results.get_many(jobs)
    assert worker.written() == []


def test_jobs_of_deleted_tasks_are_cancelled(settings: Settings, worker: HandWorker) -> None:
    # given the 250 tasks of the recorded event, of which one waits for a worker
    deleted = recorded("webhook-tasks-deleted").body
    task_id = deleted["tasks"][0]["id"]
    tell(api(settings), CREATED | {"tasks": [CREATED["tasks"][0] | {"id": task_id}]})

    # when they are deleted
    tell(api(settings), deleted)

    # then workers and the writer know
    assert worker.crew.records.is_deleted(1, task_id)
    assert worker.crew.records.is_deleted(1, deleted["tasks"][-1]["id"])
    assert not worker.crew.records.is_deleted(1, 1)
    assert not worker.crew.records.is_deleted(2, task_id)


def test_an_edited_label_config_changes_the_version_and_nothing_else_does(settings: Settings) -> None:
    # given a project whose description was edited, and then its labels
    client, event = api(settings), recorded("webhook-project-updated").body
    relabelled = event["project"] | {"label_config": event["project"]["label_config"].replace('"car"', '"bus"')}

    # when
    before = tell(client, event)
    same = tell(client, event | {"project": event["project"] | {"description": "new", "title": "Street"}})
    after = tell(client, event | {"project": relabelled})

    # then /versions and /jobs show the last one
    assert before == same != after
    assert client.get("/versions").json == {"versions": [after.removeprefix("version ")], "models": ["demo-0123abcd"]}
    (project,) = client.get("/jobs").json["projects"]
    assert (project["project_id"], project["model_version"]) == (1, after.removeprefix("version "))


@pytest.mark.parametrize("name", [name for name in NAMES if "webhook-annotation" in name])
def test_annotations_are_recorded(settings: Settings, worker: HandWorker, name: str) -> None:
    # given an event that starts nothing, since FINETUNE_AFTER is off / when
    body = recorded(name).body
    assert tell(api(settings), body) == "recorded"

    # then it is counted, and starts nothing but a comparison (tests/services/test_compare.py)
    assert api(settings).get("/jobs?project=1").json["events"] == {body["action"]: 1}
    assert worker.waiting() == worker.depths().get(EXPAND_QUEUE, 0) <= 1


def test_an_unknown_event_is_recorded_too(settings: Settings) -> None:
    assert tell(api(settings), {"action": "REVIEW_CREATED", "project": {"id": 3}}) == "recorded"
    assert tell(api(settings), {"action": "SOMETHING"}) == "recorded"
    assert api(settings).get("/jobs?project=3").json["events"] == {"REVIEW_CREATED": 1}


def test_an_event_of_a_project_without_rectangles_is_refused(settings: Settings, worker: HandWorker) -> None:
    # given a project for another kind of labels
    body = created(3) | {"project": CREATED["project"] | {"label_config": "<View/>"}}

    # when
    answer = api(settings).post("/webhook", json=body)

    # then
    assert (answer.status_code, answer.json["code"]) == (400, "bad_label_config")
    assert worker.waiting() == 0


def test_metrics_and_the_page_show_queues_and_projects(settings: Settings) -> None:
    # given three waiting jobs in a project with a name that is no harm to a page
    body = created(3) | {"project": CREATED["project"] | {"title": "<script>alert(1)</script>"}}
    tell(api(settings), body)

    # when
    metrics = api(settings).get("/metrics").text
    page = api(settings).get("/", headers={"Accept": "text/html"}).text

    # then
    assert "groundcrew_redis_up 1.0" in metrics
    assert 'groundcrew_jobs{project="1",state="queued"} 3.0' in metrics
    queues = [line for line in metrics.splitlines() if line.startswith("groundcrew_queue_messages")]
    assert sum(float(line.split()[-1]) for line in queues) == 3
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert api(settings).get("/health").json["open_jobs"] == 3
