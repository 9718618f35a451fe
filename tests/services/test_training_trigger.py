"""What starts a fine-tune, with a real Redis: the button, enough annotations and a pause; and what cancels one.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_training_trigger.py
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from contract.finetune import FinetuneRecords
from contract.jobs import FINETUNE_QUEUE, FinetuneJob
from contract.settings import Settings, read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.recorded import recorded
from worker.reconcile import Reconciler

TOKEN = {"LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token"}
MODEL = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
START = recorded("train-start-training").body
CREATED = recorded("ml-webhook-annotation-created").body
UPDATED = recorded("ml-webhook-annotation-updated").body
SKIPPED = recorded("webhook-annotation-created-skipped").body
SEVERAL = recorded("ml-webhook-annotations-created").body  #: two at once
DELETED = recorded("ml-webhook-annotations-deleted").body
PROJECT = START["project"]["id"]
ANNOTATED = CREATED["project"]["id"]
NO_PAUSE: dict[str, object] = {"finetune_after": 3, "finetune_debounce_s": 0.0}
LONG_PAUSE: dict[str, object] = {"finetune_after": 3, "finetune_debounce_s": 3600.0}


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """Settings with a token, on a database of its own, emptied for each test."""
    made = read_settings({"REDIS_URL": redis_url.removesuffix("/0") + "/8"} | MODEL | TOKEN)
    HandWorker(made).redis.flushdb()
    return made


@pytest.fixture
def worker(settings: Settings) -> HandWorker:
    return HandWorker(settings)


@pytest.fixture
def records(worker: HandWorker) -> FinetuneRecords:
    return FinetuneRecords(worker.redis)


def api(settings: Settings, **changes: object) -> FlaskClient:
    return create_app(settings.model_copy(update=changes)).test_client()


def tell(client: FlaskClient, body: dict[str, Any]) -> str:
    """Send one event; returns what was made of it."""
    answer = client.post("/webhook", json=body)
    assert answer.status_code == 200
    return str(answer.json["outcome"])


def send_due(worker: HandWorker) -> None:
    Reconciler(worker.crew, worker.redis).send_due()


def sent(worker: HandWorker) -> list[FinetuneJob]:
    """Fine-tune messages, taken off their queue."""
    count = worker.depths().get(FINETUNE_QUEUE, 0)
    return [FinetuneJob.model_validate(worker.take(FINETUNE_QUEUE)) for _ in range(count)]


# -- the button --------------------------------------------------------------------------------------------------------


def test_start_training_queues_one_fine_tune_and_the_api_shows_it(settings: Settings, worker: HandWorker) -> None:
    # given / when the button is pressed
    outcome = tell(api(settings), START)

    # then
    (job,) = sent(worker)
    assert outcome == f"fine-tune {job.id} is queued; see /jobs/{job.id}"
    assert (job.project_id, job.requested_by, job.base) == (PROJECT, "label-studio", "")
    shown = api(settings).get(f"/jobs/{job.id}").json
    assert (shown["state"], shown["project_id"]) == ("queued", PROJECT)
    overview = api(settings).get(f"/jobs?project={PROJECT}").json
    assert [row["id"] for row in overview["finetunes"]] == [job.id]
    assert overview["events"] == {"START_TRAINING": 1}


def test_pressing_twice_queues_one(settings: Settings, worker: HandWorker) -> None:
    tell(api(settings), START)
    assert "is waiting already" in tell(api(settings), START)
    assert len(sent(worker)) == 1


def test_a_project_that_can_not_be_trained_is_found_out_by_the_trainer(settings: Settings, worker: HandWorker) -> None:
    tell(api(settings), START | {"project": {"id": 9, "label_config": "<View/>"}})
    assert [job.project_id for job in sent(worker)] == [9]


def test_a_start_without_a_project_is_refused(settings: Settings, worker: HandWorker) -> None:
    answer = api(settings).post("/webhook", json={"action": "START_TRAINING", "project": {}})
    assert (answer.status_code, answer.json["field"]) == (400, "project.id")
    assert sent(worker) == []


# -- enough annotations ------------------------------------------------------------------------------------------------


def test_by_default_annotations_start_nothing(settings: Settings, worker: HandWorker) -> None:
    for _ in range(5):
        assert tell(api(settings), CREATED) == "recorded"
    assert (worker.delayed.count(), sent(worker)) == (0, [])


def test_a_fine_tune_starts_after_so_many_new_or_changed_annotations(settings: Settings, worker: HandWorker,
                                                                     records: FinetuneRecords) -> None:  # fmt: skip
    # given three are needed / when there are one, and one changed; skipped and deleted ones do not count
    client = api(settings, **NO_PAUSE)
    assert tell(client, CREATED) == "recorded; annotations until a fine-tune starts: 2"
    assert tell(client, SKIPPED) == tell(client, DELETED) == "recorded"
    assert tell(client, UPDATED) == "recorded; annotations until a fine-tune starts: 1"
    send_due(worker)
    assert sent(worker) == []

    # when the third comes
    outcome = tell(client, CREATED)
    send_due(worker)

    # then
    (job,) = sent(worker)
    assert outcome == f"recorded; fine-tune {job.id} starts when annotating pauses"
    assert (job.project_id, job.requested_by) == (ANNOTATED, "auto")
    assert records.get(job.id)["state"] == "queued"


def test_a_list_of_annotations_counts_each(settings: Settings, worker: HandWorker) -> None:
    client = api(settings, **NO_PAUSE)
    tell(client, SEVERAL)
    tell(client, SEVERAL)
    send_due(worker)
    assert len(sent(worker)) == 1


def test_it_waits_for_a_pause_which_every_annotation_begins_anew(settings: Settings, worker: HandWorker) -> None:
    # given one that waits for a pause
    client = api(settings, **LONG_PAUSE)
    for _ in range(3):
        tell(client, CREATED)
    (first_due_s,) = dict(worker.redis.zrange("gc:delayed", 0, -1, withscores=True)).values()

    # when someone goes on annotating
    assert "is waiting" in tell(client, CREATED)

    # then it is due later, and is still one
    (later_due_s,) = dict(worker.redis.zrange("gc:delayed", 0, -1, withscores=True)).values()
    assert later_due_s > first_due_s
    send_due(worker)
    assert sent(worker) == []


def test_annotating_without_a_pause_cannot_put_it_off_for_ever(settings: Settings, worker: HandWorker) -> None:
    # given one that waits for a pause / when annotating goes on with a pause of no length
    tell(api(settings, **NO_PAUSE), SEVERAL)
    tell(api(settings, **NO_PAUSE), SEVERAL)
    tell(api(settings, **NO_PAUSE), CREATED)

    # then the latest moment, ten pauses after the request, has come
    send_due(worker)
    assert len(sent(worker)) == 1


def test_the_button_does_not_wait_for_the_pause(settings: Settings, worker: HandWorker) -> None:
    # given a fine-tune that waits for a pause
    client = api(settings, **LONG_PAUSE)
    for _ in range(3):
        tell(client, CREATED)

    # when
    body = START | {"project": START["project"] | {"id": ANNOTATED}}
    tell(client, body)
    tell(client, body)

    # then it is sent, once
    (job,) = sent(worker)
    assert job.requested_by == "auto"
    assert worker.delayed.count() == 0


def test_annotations_during_a_fine_tune_count_towards_the_next(settings: Settings, worker: HandWorker,
                                                               records: FinetuneRecords) -> None:  # fmt: skip
    # given a running one
    client = api(settings, **NO_PAUSE)
    tell(client, SEVERAL)
    tell(client, SEVERAL)
    send_due(worker)
    (running,) = sent(worker)
    records.start(running, "trainer-1")

    # when / then
    assert "starts: 1" in tell(client, SEVERAL)
    tell(client, CREATED)
    send_due(worker)
    (waiting,) = sent(worker)
    assert (records.running(ANNOTATED), records.waiting(ANNOTATED)) == (running.id, waiting.id)


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_waiting_fine_tune_is_cancelled_and_a_running_one_told_to_stop(settings: Settings, worker: HandWorker,
                                                                         records: FinetuneRecords) -> None:  # fmt: skip
    # given one that runs and one that waits
    client = api(settings)
    tell(client, START)
    (running,) = sent(worker)
    records.start(running, "trainer-1")
    tell(client, START)
    (waiting,) = sent(worker)

    # when / then
    assert client.post(f"/jobs/{waiting.id}/cancel").json["state"] == "cancelled"
    stopping = client.post(f"/jobs/{running.id}/cancel").json
    assert (stopping["state"], stopping["cancel_requested"]) == ("running", True)
    assert records.is_cancelled(running.id)


def test_a_waiting_predict_job_can_be_cancelled_too(settings: Settings, worker: HandWorker) -> None:
    # given a task whose job waits
    client = api(settings)
    tell(client, recorded("webhook-tasks-created").body)
    message = worker.take()

    # when
    answer = client.post(f"/jobs/{message['id']}/cancel")

    # then no worker runs it
    assert (answer.json["state"], answer.json["reason"]) == ("cancelled", "cancelled by hand")
    worker.run(message)
    assert worker.written() == []
    assert client.get(f"/jobs/{message['id']}").json["state"] == "cancelled"


def test_cancelling_what_is_over_or_unknown(settings: Settings, worker: HandWorker) -> None:
    client = api(settings)
    tell(client, recorded("webhook-tasks-created").body)
    job = worker.run(worker.take())
    assert client.post(f"/jobs/{job.id}/cancel").json["state"] == "writing"
    for unknown in ("ft-1-00000000", "p1-t1-00000000"):
        answer = client.post(f"/jobs/{unknown}/cancel")
        assert (answer.status_code, answer.json["code"]) == (404, "unknown_job")
