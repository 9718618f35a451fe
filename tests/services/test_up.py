"""`groundcrew up`: parts that die are started again, work survives, and Ctrl-C leaves nothing running."""

import base64
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import redis
import requests

from contract.heartbeats import alive
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.crew import Crew, CrewDidNotStart
from groundcrew.demo.scenes import make_images, make_label_config
from tests.services.waiting import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def crew(folder):
    with Crew.start(folder, {}) as running:
        yield running


@pytest.fixture
def client(folder, crew):
    url = json.loads((folder / ".groundcrew" / "up.json").read_text())["redis_url"]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


def open_task(crew, task_id):
    """What a token-less Label Studio gets for an opened task: its boxes, at once."""
    return predict(crew, task_id)[0]


def predict(crew, *task_ids):
    """One task takes the way of urgent jobs, several take the bulk queue."""
    image = _data_uri(make_images(1)[0].file.content)
    tasks = [{"id": task_id, "project": 1, "data": {"image": image}} for task_id in task_ids]
    body = {"tasks": tasks, "project": "1.1", "label_config": make_label_config(), "params": {"context": None}}
    answer = requests.post(f"{crew.url}/predict", json=body, timeout=100)
    assert answer.ok, answer.text
    return answer.json()["results"]


def _data_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


def pid_of(client, role):
    return next((process["pid"] for process in alive(client) if process["role"] == role), None)


def test_without_any_setting_an_opened_task_gets_boxes(crew):
    assert open_task(crew, 1)["result"] != []


@pytest.mark.parametrize("role", ["predict", "write"])
def test_a_part_that_is_killed_is_started_again(crew, client, role):
    killed = pid_of(client, role)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pid_of(client, role) not in (killed, None), f"a new process that does {role}", crew.log_tail)
    assert open_task(crew, 100 + killed)["result"] != []


def test_a_redis_that_is_killed_is_started_again_with_its_data(crew, client):
    client.set("kept", "yes")
    killed = client.info("server")["process_id"]
    os.kill(killed, signal.SIGTERM)

    def is_back():
        try:
            return client.info("server")["process_id"] != killed
        except redis.RedisError:
            return False

    wait_until(is_back, "another Redis", crew.log_tail)
    assert client.get("kept") == "yes"
    assert open_task(crew, 3)["result"] != []
    assert [bool(answer) for answer in predict(crew, 4, 5, 6)] == [True] * 3


def test_a_second_crew_in_the_same_directory_is_refused_with_a_sentence(crew, folder):
    with pytest.raises(CrewDidNotStart, match="a crew is running in this directory already"):
        Crew.start(folder, {})


def test_a_bad_setting_ends_it_with_one_sentence(tmp_path):
    with pytest.raises(CrewDidNotStart, match=r"DEVICE: .*gpu"):
        Crew.start(tmp_path, {"DEVICE": "gpu"})


def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not a checkpoint")
    config = "grounding_dino_swin-t_pretrain_obj365"
    settings = {"CONFIG_FILE": config, "CHECKPOINT_FILE": str(tmp_path / "weights.pth"), "LANG_MODEL": str(tmp_path)}
    with pytest.raises(CrewDidNotStart, match=r"checkpoint_refused|lang_model_missing|bad_config"):
        Crew.start(tmp_path, settings)


def test_ctrl_c_stops_every_part_and_keeps_the_work(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "groundcrew", "up", "--port", str(port)]
    child = Child.start(command, env=bare_environment(), cwd=tmp_path, log_path=tmp_path / "up.log")
    wait_until(lambda: "is ready with" in child.log_text(), "the welcome", child.log_tail)
    url = json.loads((tmp_path / ".groundcrew" / "up.json").read_text())["redis_url"]
    with redis.Redis.from_url(url, decode_responses=True) as client:
        pids = [process["pid"] for process in alive(client)]
    os.kill(child.pid, signal.SIGINT)
    wait_until(lambda: child.exit_code is not None, "the end", child.log_tail)
    assert child.exit_code == 0
    assert "Traceback" not in child.log_text()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of all parts", child.log_tail)
    assert not (tmp_path / ".groundcrew" / "up.json").exists()
    assert list((tmp_path / ".groundcrew" / "redis").rglob("*.aof*")) != []
