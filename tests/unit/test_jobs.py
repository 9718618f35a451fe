"""Messages of older versions load for ever, and ids and queues are stable: other processes and old records use them."""

import json
from pathlib import Path

import pytest

from contract.jobs import (
    INTERACTIVE_QUEUE,
    Asked,
    CompareJob,
    ExpandJob,
    FinetuneJob,
    PredictJob,
    WriteBackJob,
    bulk_queue,
    bulk_queues,
    job_id,
)
from tests.fakes.jobs import predict_job

GOLDEN = Path(__file__).parent.parent / "golden"
KINDS = {kind.name: kind for kind in (PredictJob, WriteBackJob, ExpandJob, CompareJob, FinetuneJob)}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_old_messages_load(path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    job = KINDS[golden["name"]].model_validate(golden["job"])
    assert golden["job"].items() <= job.model_dump(mode="json").items()


def test_there_is_a_golden_message_of_each_kind():
    assert {json.loads(path.read_text())["name"] for path in GOLDEN.glob("*.json")} == set(KINDS)


def test_task_names_never_change():
    assert set(KINDS) == {"groundcrew.predict", "groundcrew.write_back", "groundcrew.expand", "groundcrew.compare",
                          "groundcrew.finetune"}  # fmt: skip


def test_the_id_depends_on_project_task_and_version_only():
    assert job_id(1, 7, "tiny-shapes-1.3fa2c19b") == "p1-t7-81fc74bc"
    assert job_id(1, 7, "tiny-shapes-1.00000000") != job_id(1, 7, "tiny-shapes-1.3fa2c19b")


def test_neighbouring_projects_have_a_shard_each():
    assert [bulk_queue(project, 8) for project in (1, 2, 9)] == ["predict.bulk.1", "predict.bulk.2", "predict.bulk.1"]
    assert {bulk_queue(project, 8) for project in range(57, 65)} == set(bulk_queues(8))
    assert bulk_queue(123, 4) in bulk_queues(4)


def test_waiting_callers_get_the_urgent_queue():
    assert predict_job(1, delivery="claim").queue(8) == INTERACTIVE_QUEUE
    assert predict_job(1, delivery="answer").queue(8) == INTERACTIVE_QUEUE
    assert predict_job(1, delivery="hold").queue(8) == bulk_queue(1, 8)


def test_json_goes_there_and_back_and_leaves_out_defaults():
    job = predict_job(1, asked=Asked(prompts=("a",), labels=("b",)))
    assert PredictJob.model_validate(json.loads(json.dumps(job.to_json()))) == job
    assert "attempt" not in job.to_json()
    assert {"run", "enqueued_at_s"} <= job.to_json().keys()
