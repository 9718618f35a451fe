"""What every route really answers is what docs/openapi.yaml says, no field more and no field less.

Run by: pytest. Real Redis with jobs, fine-tunes and annotations in every state. Must not import: torch.
Example: pytest tests/services/test_openapi.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import schemathesis
import yaml
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.app import create_app
from contract.agreement import Counts
from contract.agreement_records import AgreementRecords, Compared
from contract.errors import ImageNotFound, ImageUnavailable, TrainingDataError
from contract.finetune import FinetuneJob, FinetuneRecords, new_finetune
from contract.jobs import PredictJob
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.hand_worker import HandWorker
from tests.fakes.jobs import predict_job
from tests.fakes.recorded import recorded, tasks_like

SCHEMA = yaml.safe_load((Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
DESCRIBED = schemathesis.openapi.from_dict(SCHEMA)
OPERATIONS = {(method, path) for path, item in SCHEMA["paths"].items() for method in item if method != "parameters"}
SETTINGS = {
    "CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth", "PREDICT_WAIT_S": "0",
    "SYNC_WAIT_S": "0",
}  # fmt: skip
SETUP, CREATED = recorded("setup").body, recorded("webhook-tasks-created").body
BATCH, TYPED = recorded("predict-batch").body, recorded("predict-interactive").body
MANY = CREATED | {"tasks": tasks_like(CREATED["tasks"][0], 3)}
PROGRESS = {"base": "tiny-shapes-1", "stage": "train", "images": 9, "epoch": 1, "epochs": 2, "iteration": 3,
            "iterations": 4, "loss": 0.5, "eta_s": 6.0, "map": 0.7, "map_base": 0.6,
            "weighted_map": 0.8, "weighted_map_base": 0.3, "warnings": "none",
            "gpus": "GPU-1,GPU-2", "stage_done": 2, "stage_total": 9}  # fmt: skip


class Checked:
    """The API, whose every answer is compared with its description; remembers what was called and which keys came."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client
        self.called: set[tuple[str, str]] = set()
        self.keys: set[str] = set()

    def __call__(self, method: str, path: str, *, status: int = 200, **request: Any) -> TestResponse:
        route, arguments = path.partition("?")[0], request.pop("arguments", {})
        answer = self._client.open(path.format(**arguments), method=method, **request)
        assert answer.status_code == status, answer.text
        DESCRIBED[route][method].validate_response(answer)
        if status == 200:
            self.called.add((method, route))
        self.keys |= set(find_keys(answer.json)) if answer.is_json else set()
        return answer


def find_keys(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from find_keys(one)
    elif isinstance(value, dict):
        yield from value
        yield from find_keys(list(value.values()))


@pytest.fixture
def make_api(redis_url: str, client: redis.Redis) -> Callable[..., FlaskClient]:
    return lambda **changes: create_app(read_settings(SETTINGS | {"REDIS_URL": redis_url} | changes)).test_client()


def fill(client: redis.Redis) -> tuple[list[PredictJob], list[FinetuneJob]]:
    """Project 1 with a job and a fine-tune in every state, and two model versions that annotators looked at."""
    records = JobRecords(client, failed_memory_s=600)
    jobs = [predict_job(task) for task in range(101, 108)]
    _queued, _running, retried, writing, done, failed, cancelled = jobs
    records.admit(jobs)
    records.cancel(cancelled.id, cancelled.run, 1, "cancelled by hand")
    for job in jobs[1:-1]:
        records.start(job, redelivered=False, worker="worker-1@here")
    records.retry_later(retried.model_copy(update={"attempt": 1}), ImageUnavailable())
    for job in (writing, done):
        records.predicted(job, 2)
    records.finish(done.id, done.run, 1, boxes=2)
    records.fail(failed.id, failed.run, 1, ImageNotFound())
    records.dead.bury(failed, ImageNotFound(), attempts=1)
    sums = [{"car": Counts(1, 1, 1, 1, 1)}, {"car": Counts(added=1)}, {"car": Counts(deleted=1)}]
    seen = [Compared(n, n, 1.0, f"v-{n}", by_label) for n, by_label in enumerate(sums, start=1)]
    AgreementRecords(client).put(1, seen, now_s=1.0)
    return jobs, fill_finetunes(FinetuneRecords(client))


def fill_finetunes(records: FinetuneRecords) -> list[FinetuneJob]:
    done, failed, cancelled, _running, queued = jobs = [new_finetune(1, "cli", base="tiny-shapes-1") for _ in range(5)]
    for job in jobs:
        records.request(job)
        if job is cancelled:
            records.cancel_request(job.id)
        elif job is not queued:
            assert records.start(job, "trainer-1@here") == "started"
            records.progress(job.id, **PROGRESS)
        if job is done:
            records.finish(job.id, version="tiny-shapes-p1-1", decision="promoted", reason="mAP 0.7 against 0.6")
        elif job is failed:
            records.fail(job.id, TrainingDataError("no boxes"))
    return jobs


def test_every_answer_is_as_described(
    make_api: Callable[..., FlaskClient], client: redis.Redis, redis_url: str
) -> None:
    # given a task that was asked for without a token and is predicted by now, and every kind of record
    ask, worker = Checked(make_api()), HandWorker(read_settings(SETTINGS | {"REDIS_URL": redis_url}))
    three = BATCH | {"tasks": tasks_like(BATCH["tasks"][0], 3)}
    assert ask("post", "/predict", json=three).json == {"results": [[], [], []]}
    worker.run(worker.take())
    jobs, finetunes = fill(client)

    # when every route is called
    ask("get", "/health")
    ask("post", "/setup", json=SETUP)
    ask("post", "/predict", json=three)
    ask("post", "/webhook", json=CREATED)
    ask("post", "/webhook/{secret}", arguments={"secret": "x"}, json=recorded("webhook-project-updated").body)
    ask("get", "/versions")
    ask("get", "/jobs")
    ask("get", "/jobs?project=1")
    ask("get", "/jobs?project=2")
    for job in [*jobs, *finetunes]:
        ask("get", "/jobs/{job_id}", arguments={"job_id": job.id})
        ask("post", "/jobs/{job_id}/cancel", arguments={"job_id": job.id})
        ask("get", "/jobs/{job_id}", arguments={"job_id": job.id})
    ask("get", "/agreement?project=1")
    ask("get", "/agreement?project=2")
    ask("get", "/metrics")
    ask("get", "/metrics/outstanding")

    # then none was forgotten, and nothing is described that no route answers
    assert ask.called == OPERATIONS
    assert set(find_answered(SCHEMA)) - ask.keys == set()


def find_answered(schema: Any) -> Iterator[str]:
    """Names of all properties that answers of 200 may have."""
    others = {"Region", "Task", "Project", "LabelConfig", "Error"}
    places = [answer for path, item in schema["paths"].items() for method, facts in item.items()
              if method != "parameters" for answer in facts["responses"].values()]  # fmt: skip
    places += [facts for name, facts in schema["components"]["schemas"].items() if name not in others]
    for place in [*places, *schema["components"]["responses"].values()]:
        yield from find_properties(place)


def find_properties(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from find_properties(one)
    elif isinstance(value, dict):
        yield from value.get("properties", {})
        for one in value.values():
            yield from find_properties(one)


def test_every_error_is_as_described(make_api: Callable[..., FlaskClient]) -> None:
    ask = Checked(make_api())
    guarded = Checked(make_api(BASIC_AUTH_USER="crew", BASIC_AUTH_PASS="pass", WEBHOOK_SECRET="hook-secret"))
    full = Checked(make_api(MAX_WAITING_PER_PROJECT="1"))
    away = Checked(make_api(REDIS_URL="redis://127.0.0.1:1/0"))

    # when / then each operation is refused in its ways
    for method, path in OPERATIONS - {("get", "/health")}:
        unauthorized = guarded(method, path, arguments={"secret": "guess", "job_id": "p1-t1-0"}, status=401)
        assert unauthorized.headers["WWW-Authenticate"].startswith("Basic")
    for path in ("/setup", "/predict", "/webhook"):
        assert ask("post", path, data=b"[]", status=400).json["field"]
    for path in ("/jobs?project=one", "/agreement?project=one", "/agreement"):
        assert ask("get", path, status=400).json["field"] == "project"
    for job_id in ("p1-t1-0", "ft-1-0"):
        ask("get", "/jobs/{job_id}", arguments={"job_id": job_id}, status=404)
        ask("post", "/jobs/{job_id}/cancel", arguments={"job_id": job_id}, status=404)
    odd = ask("get", "/jobs/{job_id}", arguments={"job_id": "%E6%B1%BD%0D%0AX-Evil: 1"}, status=404)
    assert odd.status.startswith("404 no job ???X-Evil: 1 is known: ")
    assert "X-Evil" not in odd.headers
    refused = [
        full("post", "/predict", json=BATCH, status=503), full("post", "/webhook", json=MANY, status=503),
        *(away("post", path, json=json, status=503) for path, json in (("/predict", BATCH), ("/webhook", CREATED))),
        *(away("get", path, status=503) for path in ("/jobs", "/agreement?project=1", "/metrics/outstanding")),
        ask("post", "/predict", json=TYPED, status=504),
    ]  # fmt: skip
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
