"""One crew at work, seen from outside: a real Prometheus, the dashboard, the alerts, log lines, a notification.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/services/test_monitoring.py
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from groundcrew.crew import Crew
from groundcrew.demo.scenes import make_images, make_label_config
from tests.fakes.receiver import Receiver
from tests.services.machine import REPOSITORY, absent
from tests.services.prometheus import CONFIGURATION, Prometheus
from tests.services.waiting import wait_for_predictions, wait_until

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes or so.").decode()
IMAGES = 30
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "dashboards" / "groundcrew.json").read_text())
QUERIES = sorted({target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]})
#: Series that a machine without a GPU, and a crew to which nothing bad happens, does not have.
ABSENT = ("device_memory", "gpu_leases", "job_retries")


class Watched(NamedTuple):
    """A crew that has predicted all tasks of a project."""

    crew: Crew
    prometheus: Prometheus
    project: int
    receiver: Receiver


@pytest.fixture(scope="module")
def watched(tmp_path_factory, label_studio, label_studio_server, label_studio_token) -> Iterator[Watched]:
    program = shutil.which("prometheus") or absent("prometheus")
    with Receiver(SECRET) as receiver:
        settings = {
            "LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token,
            "LOG_FORMAT": "json", "NOTIFY_URL": receiver.url, "NOTIFY_SECRET": SECRET,
        }  # fmt: skip
        with Crew.start(tmp_path_factory.mktemp("crew"), settings) as crew:
            target = crew.url.removeprefix("http://")
            with Prometheus.start(program, tmp_path_factory.mktemp("prometheus"), target=target) as prometheus:
                wait_until(lambda: bool(prometheus.query("groundcrew_redis_up == 1")), "the first scrape")
                project = label_studio.create_project("watched", make_label_config())
                label_studio.connect_backend(project, crew.url, title="groundcrew")
                images = make_images(IMAGES, first_seed=900)
                # two imports, so that Prometheus sees counters rise, and an address that fails for good
                label_studio.upload_images(project, [image.file for image in images[:1]])
                label_studio.import_tasks(project, ["ftp://images.example.org/a.png"])
                wait_for_predictions(label_studio, project, 1)
                wait_until(lambda: bool(prometheus.query("groundcrew_job_failures_total")), "the failure")
                label_studio.upload_images(project, [image.file for image in images[1:]])
                wait_for_predictions(label_studio, project, IMAGES)
                yield Watched(crew, prometheus, project, receiver)
                label_studio.delete_project(project)


def log_lines(watched):
    whole_lines, _, _ = (watched.crew.folder / "groundcrew.log").read_text().rpartition("\n")
    return [json.loads(line) for line in whole_lines.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_of_the_dashboard_shows_something(watched, query):
    if any(name in query for name in ABSENT):
        watched.prometheus.query(query)
        return
    wait_until(lambda: bool(watched.prometheus.query(query)), f"{query} to give something")


def test_the_counts_are_those_of_label_studio(watched):
    def value(expression):
        return sum(float(series["value"][1]) for series in watched.prometheus.query(expression))

    wait_until(lambda: value("groundcrew_images_total") == IMAGES, "all images to be counted")
    wait_until(lambda: value('groundcrew_predictions_written_total{result="stored"}') == IMAGES, "all write-backs")
    wait_until(lambda: value('groundcrew_jobs{state="done"}') == IMAGES, "all records")
    wait_until(lambda: value("groundcrew_batch_images_sum") == IMAGES, "all batches")
    wait_until(lambda: value('groundcrew_outstanding_jobs{role="predict"}') == 0, "the last job")
    assert value("groundcrew_job_failures_total") == 1


def test_every_alert_is_evaluated_and_none_fires(watched):
    # given rules that were all evaluated
    wait_until(lambda: all(rule["health"] == "ok" for rule in watched.prometheus.rules()), "the rules")
    # a failed job among thirty is more than 5 %, which has to last for ten minutes
    assert [rule["name"] for rule in watched.prometheus.rules() if rule["state"] == "firing"] == []


def test_each_alert_fires_when_it_should():
    promtool = shutil.which("promtool") or absent("promtool")
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([promtool, *arguments], cwd=CONFIGURATION, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_can_be_drawn():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert {target["datasource"]["uid"] for target in targets} == {"prometheus"}


def test_one_task_can_be_followed_from_the_api_to_the_write_back(watched, label_studio):
    # given the last task that was imported
    task = max(label_studio.image_names(watched.project))
    wait_until(lambda: any(line["message"].endswith("is stored") and line.get("task") == task
                           for line in log_lines(watched)), "the line of the writer")  # fmt: skip

    # when its lines are picked out
    lines = [line for line in log_lines(watched) if line.get("task") == task]

    # then all parts speak of the same job
    assert {"predict", "write"} <= {line["role"] for line in lines}
    assert {line["project"] for line in lines} == {watched.project}
    assert len({line["job"] for line in lines}) == 1


def test_one_request_can_be_followed_through_all_parts(watched):
    # the first upload is one task, which the API sends by itself
    (sent, *_) = [line for line in log_lines(watched) if line["message"] == "sent groundcrew.predict"]
    wait_until(lambda: {"api", "predict", "write"} <=
               {line["role"] for line in log_lines(watched) if line.get("request") == sent["request"]},
               "the three parts")  # fmt: skip
    about = [line for line in log_lines(watched) if line.get("request") == sent["request"] and "task" in line]
    assert {line["task"] for line in about} == {sent["task"]}


def test_the_logs_hold_no_secret(watched, label_studio_token):
    text = (watched.crew.folder / "groundcrew.log").read_text()
    assert label_studio_token not in text
    assert SECRET not in text


def test_the_import_was_told_of_once_and_signed(watched):
    def finished():
        return [event for event in watched.receiver.events if event["type"] == "predictions.finished"]

    wait_until(lambda: sum(event["data"]["done"] for event in finished()) >= 20, "the notification")
    assert len(finished()) <= 2
    assert watched.receiver.refused == 0
