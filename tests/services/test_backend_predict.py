"""/predict with a real Redis and the real tasks of the worker: who answers, who writes, and never both.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_backend_predict.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.app import create_app
from backend.dispatch import Dispatcher
from backend.models import ModelCards
from backend.payloads import TaskImage
from contract.errors import ImageNotFound, ImageUnavailable, QueueFull
from contract.jobs import EXPAND_QUEUE, INTERACTIVE_QUEUE, Prediction, PredictJob, bulk_queue
from contract.prompts import read_interactive
from contract.results import Results
from contract.settings import Settings, read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.recorded import recorded, tasks_like

TOKEN = {"LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token"}
MODEL = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
LONG = {"PREDICT_WAIT_S": "60", "SYNC_WAIT_S": "60"}  #: whoever waits is woken, or the test fails by its timeout
NO_WAIT = {"PREDICT_WAIT_S": "0", "SYNC_WAIT_S": "0"}

BATCH = recorded("predict-batch").body
OPENED = recorded("predict-single-task-open").body
TYPED = recorded("predict-interactive").body
VERSION = "demo-0123abcd.3856e6c4"  #: of the recorded label config

MakeSettings = Callable[..., Settings]
Answer = Future[TestResponse]


@pytest.fixture
def make_settings(redis_url: str) -> MakeSettings:
    """Settings on a database of its own, emptied for each test."""

    def make(*parts: dict[str, str]) -> Settings:
        environment = {"REDIS_URL": redis_url.removesuffix("/0") + "/7"} | MODEL
        for part in parts:
            environment |= part
        return read_settings(environment)

    worker = HandWorker(make())
    worker.redis.flushdb()
    return make


@pytest.fixture
def worker(make_settings: MakeSettings) -> HandWorker:
    return HandWorker(make_settings())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def api(settings: Settings) -> FlaskClient:
    return create_app(settings).test_client()


def ask(settings: Settings, body: dict[str, Any]) -> TestResponse:
    return api(settings).post("/predict", json=body)


def batch(count: int) -> dict[str, Any]:
    return BATCH | {"tasks": tasks_like(BATCH["tasks"][0], count)}


def state(settings: Settings, job: PredictJob) -> Any:
    return api(settings).get(f"/jobs/{job.id}").json["state"]


class ResultsThatComeLate(Results):
    """A worker finishes right after the wait has ended, before the request claims the delivery."""

    def __init__(self, worker: HandWorker) -> None:
        super().__init__(worker.redis)
        self._worker = worker
        self.job: PredictJob | None = None

    def wait(self, job: PredictJob, deadline_s: float) -> Prediction | None:
        self.job = self._worker.run(self._worker.take(INTERACTIVE_QUEUE))
        return None


# -- many tasks ------------------------------------------------------------------------------------------------------


def test_259_tasks_are_one_message_and_become_259_jobs_once(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given a selection of 259 tasks
    settings = make_settings(TOKEN)

    # when it is asked for twice
    answers = [ask(settings, batch(259)).json, ask(settings, batch(259)).json]
    first, second = worker.take(EXPAND_QUEUE), worker.take(EXPAND_QUEUE)
    worker.expand(first)
    worker.expand(second)

    # then each answer has 259 empty entries, and there is one job a task
    assert answers == [{"results": [[]] * 259}] * 2
    assert worker.waiting() == 259
    jobs = [PredictJob.model_validate(worker.take()) for _ in range(259)]
    assert sorted(job.task_id for job in jobs) == list(range(1, 260))
    assert {(job.model_version, job.delivery, job.project_id) for job in jobs} == {(VERSION, "write", 1)}


def test_a_small_selection_is_sent_at_once_and_only_once(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given / when nine tasks are asked for twice, one of them listed twice
    settings = make_settings(TOKEN)
    body = batch(9) | {"tasks": [*batch(9)["tasks"], batch(9)["tasks"][0]]}
    answers = [ask(settings, body).json for _ in range(2)]

    # then
    assert answers == [{"results": [[]] * 10}] * 2
    assert worker.waiting() == 9


def test_a_job_carries_what_a_worker_needs(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given / when
    body = recorded("predict-batch-s3").body
    ask(make_settings(TOKEN), body | {"tasks": body["tasks"] * 2})
    job = PredictJob.model_validate(worker.take())

    # then
    assert (job.project_id, job.task_id, job.image) == (4, 261, "s3://bkt/d/图.png")
    assert job.model == "demo-0123abcd"
    assert worker.crew.records.load_config(job.config_id) == (BATCH["label_config"], {})


def test_a_task_without_image_fails_alone_with_its_reason(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given four tasks, the last without an image
    settings = make_settings(TOKEN)
    body = batch(4)
    body["tasks"][3]["data"] = {"text": "x"}

    # when
    answer = ask(settings, body)

    # then the others are sent, and the reason can be looked up
    assert answer.json == {"results": [[]] * 4}
    assert worker.waiting() == 3
    (failure,) = api(settings).get("/jobs?project=1").json["failures"]
    assert (failure["task_id"], failure["code"]) == (4, "bad_payload")
    assert failure["reason"].startswith("tasks[3].data.image is missing; ")


def test_a_full_queue_refuses_with_503(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given room for ten jobs, of which nine are taken
    settings = make_settings(TOKEN, {"QUEUE_LIMIT": "10"})
    ask(settings, batch(9))

    # when two more are asked for
    answer = ask(settings, batch(2))

    # then
    assert (answer.status_code, answer.json["code"]) == (503, "queue_full")
    assert answer.headers["Retry-After"] == "5"
    assert worker.waiting() == 9


@pytest.mark.parametrize(("used", "status"), [(0.70, 200), (0.90, 503)])
def test_a_redis_over_80_percent_of_its_memory_refuses_with_503(
    make_settings: MakeSettings, worker: HandWorker, used: float, status: int
) -> None:
    # given a Redis that uses this share of what it may, nearly all of it for one value: buffers come and go
    settings = make_settings(TOKEN)
    worker.redis.setrange("padding", 50_000_000, "x")
    used_bytes = worker.redis.info("memory")["used_memory"]
    worker.redis.config_set("maxmemory", int(used_bytes / used))
    try:
        # when
        answer = ask(settings, batch(2))
    finally:
        worker.redis.config_set("maxmemory", 0)
        worker.redis.delete("padding")

    # then
    assert answer.status_code == status
    if status == 503:
        assert (answer.json["code"], answer.headers["Retry-After"]) == ("queue_full", "5")
        assert "over 80% of its maxmemory" in answer.json["message"]
    assert worker.waiting() == (2 if status == 200 else 0)


# -- one opened task ---------------------------------------------------------------------------------------------------


def test_an_opened_task_is_answered_with_its_boxes(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given a task that someone opens
    settings = make_settings(TOKEN, LONG)
    waiting: Answer = pool.submit(ask, settings, OPENED)

    # when a worker predicts it
    job = worker.run(worker.take(INTERACTIVE_QUEUE))

    # then the answer has the boxes, nobody writes them, but a later look is planned
    (prediction,) = waiting.result().json["results"]
    assert (prediction["model_version"], prediction["score"]) == (VERSION, 0.9)
    assert [region["id"] for region in prediction["result"]] == [job.id]
    assert state(settings, job) == "done"
    assert worker.written() == []
    (check,) = worker.delayed.jobs()
    assert check.verify is True  # type: ignore[union-attr]


def test_when_nobody_predicts_in_time_the_writer_delivers(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given a task opened while no worker runs
    settings = make_settings(TOKEN, {"PREDICT_WAIT_S": "0.05"})
    answer = ask(settings, OPENED)

    # when a worker predicts it later
    job = worker.run(worker.take(INTERACTIVE_QUEUE))

    # then it is written, once
    assert answer.json == {"results": [[]]}
    assert [write.id for write in worker.written()] == [job.id]
    assert worker.delayed.count() == 0


def test_api_and_writer_never_both_deliver_and_never_neither(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given an API that stops waiting at about the moment when the worker, sooner or later, is done
    client = api(make_settings(TOKEN, NO_WAIT))
    for round_number in range(200):
        worker.predictor.takes_s = 0.0001 * (round_number % 40)
        task = OPENED["tasks"][0] | {"id": round_number + 1}

        # when both race
        waiting: Answer = pool.submit(client.post, "/predict", json=OPENED | {"tasks": [task]})
        worker.run(worker.take(INTERACTIVE_QUEUE))
        answered = waiting.result().json["results"] != [[]]

        # then exactly one has it; the same run may be handed to the writer by both, who stores a run once
        written = {(write.id, write.run) for write in worker.written()}
        assert len(written) == (0 if answered else 1), f"round {round_number}"


def test_boxes_that_come_as_the_wait_ends_are_written(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given a worker that is done just after the request has stopped waiting, and has seen no claim
    settings = make_settings(TOKEN)
    results = ResultsThatComeLate(worker)
    dispatcher = Dispatcher(settings, results=results)
    project = ModelCards(settings).look_up(1, OPENED["label_config"])

    # when
    answers = dispatcher.predict(project, [TaskImage(1, "a.png")], "config")

    # then the request hands them to the writer
    assert answers == [[]]
    assert [write.id for write in worker.written()] == [results.job.id]


def test_two_people_who_open_a_task_get_its_boxes_once(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given two requests that wait for the same job
    settings = make_settings(TOKEN, LONG)
    both = [pool.submit(ask, settings, OPENED) for _ in range(2)]
    messages = [worker.take(INTERACTIVE_QUEUE) for _ in both]

    # when a worker runs it
    for message in messages:
        worker.run(message)

    # then Label Studio stores one of the two answers
    found = [answer.result().json["results"] != [[]] for answer in both]
    assert sorted(found) == [False, True]
    assert worker.written() == []


def test_an_opened_task_overtakes_the_bulk_queue_and_runs_once(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given three tasks waiting in the bulk queue
    settings = make_settings(TOKEN, LONG)
    ask(settings, OPENED | {"tasks": tasks_like(OPENED["tasks"][0], 3)})

    # when the first is opened, and a worker takes the urgent message before the bulk ones
    waiting: Answer = pool.submit(ask, settings, OPENED)
    urgent = worker.run(worker.take(INTERACTIVE_QUEUE))
    answered = waiting.result().json["results"]
    bulk = [worker.run(worker.take()) for _ in range(3)]

    # then it was answered, and its bulk message changed nothing
    assert answered[0]["model_version"] == VERSION
    assert urgent.run in {job.run for job in bulk}
    assert sorted(write.prediction.task_id for write in worker.written()) == [2, 3]


def test_a_task_that_a_worker_has_already_is_answered_at_once(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given a bulk job that a worker has begun
    settings = make_settings(TOKEN, LONG)
    ask(settings, OPENED | {"tasks": tasks_like(OPENED["tasks"][0], 2)})
    job = PredictJob.model_validate(worker.take())
    worker.crew.records.start(job, redelivered=False, worker="other")

    # when its task is opened / then nobody waits, and nothing more is sent
    body = OPENED | {"tasks": [OPENED["tasks"][0] | {"id": job.task_id}]}
    assert ask(settings, body).json == {"results": [[]]}
    assert worker.waiting() == 1


def test_a_failed_image_is_answered_at_once_and_remembered(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given an image that is not there
    settings = make_settings(TOKEN, LONG)
    worker.predictor.failures[1] = ImageNotFound("http://h/a.png answered 404")

    # when it is opened, and opened again
    waiting: Answer = pool.submit(ask, settings, OPENED)
    job = worker.run(worker.take(INTERACTIVE_QUEUE))
    first, second = waiting.result(), ask(settings, OPENED)

    # then both get nothing, without a second try, and the reason is on record
    assert first.json == second.json == {"results": [[]]}
    assert worker.waiting() == 0
    record = api(settings).get(f"/jobs/{job.id}").json
    assert (record["state"], record["code"]) == ("failed", "image_not_found")
    assert record["reason"] == "http://h/a.png answered 404"

    # and with no memory of failures it is tried again
    ask(make_settings(TOKEN, NO_WAIT, {"FAILED_MEMORY_S": "0"}), OPENED)
    assert worker.waiting() == 1


# -- without a token ---------------------------------------------------------------------------------------------------


def test_without_a_token_what_is_ready_is_answered_and_the_rest_is_kept(
    make_settings: MakeSettings, worker: HandWorker
) -> None:
    # given two tasks that were asked for in vain
    settings, body = make_settings(NO_WAIT), batch(2)
    answers = [ask(settings, body).json["results"]]

    # when a worker predicts one, they are asked for again, and the same with the other
    jobs = []
    for _ in range(2):
        jobs.append(worker.run(worker.take()))
        answers.append(ask(settings, body).json["results"])

    # then each answer has what was ready, and nothing was predicted twice or written
    ids = {job.task_id: job.id for job in jobs}
    found = [[answer["result"][0]["id"] if answer else None for answer in results] for results in answers]
    assert found[0] == [None, None]
    assert found[1] == [ids[1], None] if jobs[0].task_id == 1 else [None, ids[2]]
    assert found[2] == [ids[1], ids[2]]
    assert worker.waiting() == 0


def test_without_a_token_a_second_request_joins_the_first(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given a job that an earlier request left behind
    ask(make_settings(NO_WAIT), OPENED)

    # when it is asked for again, and a worker comes
    waiting: Answer = pool.submit(ask, make_settings(LONG), OPENED)
    worker.wait_for_waiters(1)
    worker.run(worker.take())

    # then that request gets the boxes of the one job
    assert waiting.result().json["results"][0]["model_version"] == VERSION
    assert worker.waiting() == 0


def test_without_a_token_an_opened_task_overtakes_the_bulk_queue(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given a selection that waits in the bulk queue
    ask(make_settings(NO_WAIT), batch(3))
    assert worker.depths()[bulk_queue(1, 8)] == 3

    # when one of its tasks is opened
    waiting: Answer = pool.submit(ask, make_settings(LONG), batch(1))
    worker.wait_for_waiters(1)
    job = worker.run(worker.take(INTERACTIVE_QUEUE))

    # then it is answered before the others, and its bulk message finds nothing left to do
    assert waiting.result().json["results"][0]["model_version"] == VERSION
    assert job.task_id == 1
    assert not worker.crew.records.start(job, redelivered=False, worker="other")


def test_without_a_token_a_task_listed_twice_is_answered_twice(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given / when
    waiting: Answer = pool.submit(ask, make_settings(LONG), OPENED | {"tasks": OPENED["tasks"] * 2})
    worker.run(worker.take())

    # then
    first, second = waiting.result().json["results"]
    assert first == second
    assert worker.waiting() == 0


def test_without_a_token_a_failed_image_holds_up_nobody(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given one good and one bad image
    worker.predictor.failures[2] = ImageNotFound()
    waiting: Answer = pool.submit(ask, make_settings(LONG), batch(2))

    # when both have run
    worker.run(worker.take())
    worker.run(worker.take())

    # then
    first, second = waiting.result().json["results"]
    assert (bool(first), second) == (True, [])


# -- typed prompts -----------------------------------------------------------------------------------------------------


def test_a_typed_prompt_is_answered_with_a_dict_and_not_stored(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor
) -> None:
    # given the recorded request for "红绿灯 and car"
    waiting: Answer = pool.submit(ask, make_settings(TOKEN, LONG), TYPED)

    # when
    job = worker.run(worker.take(INTERACTIVE_QUEUE))

    # then the worker was told prompts and labels, and the editor gets a dict
    (found,) = waiting.result().json["results"]
    assert job.asked is not None
    assert (job.asked.prompts, job.asked.labels) == (("traffic light", "car"), ("traffic_light", "car"))
    assert (len(found["result"]), found["model_version"]) == (1, VERSION)
    assert worker.written() == []
    assert worker.delayed.count() == 0


@pytest.mark.parametrize("error", [ImageNotFound("http://h/a.png answered 404"), ImageUnavailable("timed out")])
def test_a_failed_typed_prompt_says_why(
    make_settings: MakeSettings, worker: HandWorker, pool: ThreadPoolExecutor, error: ImageNotFound
) -> None:
    # given an image that cannot be had
    worker.predictor.failures[1] = error
    waiting: Answer = pool.submit(ask, make_settings(TOKEN, LONG), TYPED)

    # when
    worker.run(worker.take(INTERACTIVE_QUEUE))

    # then Label Studio shows this sentence
    answer = waiting.result()
    assert (answer.status_code, answer.json["code"]) == (502, "prediction_failed")
    assert answer.json["message"] == f"{error.message} ({error.code})"


def test_a_typed_prompt_that_nobody_waits_for_is_cancelled(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given no worker
    settings = make_settings(TOKEN, NO_WAIT)

    # when
    answer = ask(settings, TYPED)
    job = PredictJob.model_validate(worker.take(INTERACTIVE_QUEUE))

    # then
    assert (answer.status_code, answer.json["code"]) == (504, "prediction_late")
    assert state(settings, job) == "cancelled"
    assert worker.crew.records.start(job, redelivered=False, worker="late") is False


# -- seats -------------------------------------------------------------------------------------------------------------


def test_without_a_free_seat_nobody_waits(make_settings: MakeSettings, worker: HandWorker) -> None:
    # given a dispatcher whose seats are all taken
    settings = make_settings(TOKEN, LONG)
    dispatcher = Dispatcher(settings, seats=0)
    project = ModelCards(settings).look_up(1, OPENED["label_config"])
    image = TaskImage(1, "a.png")

    # when a task is opened, then it is sent, and left to the writer
    assert dispatcher.predict(project, [image], "config") == [[]]
    worker.run(worker.take(INTERACTIVE_QUEUE))
    assert len(worker.written()) == 1

    # and a typed prompt, which nobody could deliver later, is refused
    with pytest.raises(QueueFull, match="too many requests are waiting"):
        dispatcher.interactive(project, image, "config", read_interactive(project.label_map, None))
    assert worker.waiting() == 0
