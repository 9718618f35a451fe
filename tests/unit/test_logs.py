"""JSON log lines: one object a line, with the facts of the job it is about."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from contract.envelopes import enclose
from contract.jobs import Prediction, PredictJob, WriteBackJob
from contract.logs import JsonFormatter, about, begin_facts, facts_of
from groundcrew.child import bare_environment

REPOSITORY = Path(__file__).resolve().parents[2]
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


SPEAK = """
import logging, sys
from contract.logs import configure_logs
from contract.settings import read_settings
configure_logs(read_settings(), "predict")
try:
    raise ValueError("GET https://bucket/a.png?X-Amz-Signature=s1gnature failed")
except ValueError:
    logging.exception("the token is %s, the header Authorization: Bearer 0123456789abcdef", "t0ken-of-label-studio")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_a_process_logs_holds_no_secret_not_even_in_a_traceback(log_format):
    env = bare_environment({"LOG_FORMAT": log_format, "LABEL_STUDIO_API_KEY": "t0ken-of-label-studio"})
    said = subprocess.run([sys.executable, "-c", SPEAK], env=env | {"PYTHONPATH": str(REPOSITORY)}, check=True,
                          capture_output=True, text=True).stderr  # fmt: skip
    assert ("the token is ***" in said, "Traceback" in said) == (True, True), said
    assert [secret for secret in ("t0ken-of-label-studio", "s1gnature", "0123456789abcdef") if secret in said] == []
