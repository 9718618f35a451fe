"""JSON log lines: one object a line, with the facts of the job it is about."""

import json
import logging
import sys

import pytest

from contract.envelopes import enclose
from contract.jobs import Prediction, PredictJob, WriteBackJob
from contract.logs import JsonFormatter, about, begin_facts, facts_of

JOB = PredictJob(project_id=3, task_id=7, image="http://h/secret.png?token=abc", config_id="c", model="m-1",
                 model_version="m-1.0", id="p3-t7-0")  # fmt: skip


@pytest.fixture(autouse=True)
def no_facts():
    begin_facts()


def line(message, *values, exc_info=None):
    record = logging.LogRecord("worker.tasks", logging.INFO, __file__, 1, message, values, exc_info)
    return json.loads(JsonFormatter("predict").format(record))


def test_a_line_says_when_who_what_and_about_which_job():
    with about(**facts_of(JOB)):
        found = line("%d boxes", 3)
    assert found | {"time": ""} == {"time": "", "level": "INFO", "role": "predict", "logger": "worker.tasks",
                                    "message": "3 boxes", "job": "p3-t7-0", "task": 7, "project": 3}  # fmt: skip
    assert "job" not in line("later"), "facts end with their block"


def test_a_write_back_is_about_the_same_task():
    prediction = Prediction(task_id=7, model_version="m-1.0", score=0, result=[])
    assert facts_of(WriteBackJob(id=JOB.id, run="r", project_id=3, prediction=prediction)) == facts_of(JOB)


def test_facts_hold_no_address():
    assert "secret" not in json.dumps(facts_of(JOB))


def test_an_exception_stays_on_its_line():
    try:
        raise OSError("disk full")
    except OSError:
        found = line("failed", exc_info=sys.exc_info())
    assert "OSError: disk full" in found["exception"]


def test_a_message_carries_the_request_it_is_for_and_when_it_was_sent():
    with about(request="abc"):
        headers = json.loads(enclose(JOB, 8).message)["headers"]
    assert headers["request_id"] == "abc"
    assert float(headers["sent_at_s"]) > 1_700_000_000
    assert "request_id" not in json.loads(enclose(JOB, 8).message)["headers"]
