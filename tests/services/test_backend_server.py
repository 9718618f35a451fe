"""The API as it really runs, under gunicorn: it starts without Redis, and /health answers while every seat waits.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_backend_server.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from backend.dispatch import SEATS
from contract.settings import read_settings
from groundcrew.child import Child, bare_environment, free_port
from tests.fakes.hand_worker import HandWorker
from tests.fakes.recorded import recorded
from tests.services.machine import REPOSITORY
from tests.services.waiting import answers, wait_until

SETTINGS = {
    "CONFIG_FILE": "grounding_dino_demo.py",
    "CHECKPOINT_FILE": "demo-0123abcd.pth",
    "LABEL_STUDIO_URL": "http://studio",
    "LABEL_STUDIO_API_KEY": "token",
    "PREDICT_WAIT_S": "90",  # the longest there is: whoever waits is woken
}
OPENED = recorded("predict-single-task-open").body
StartApi = Callable[[str], str]


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[StartApi]:
    """Starts gunicorn on a Redis URL and returns the API's own URL once it answers."""
    with ExitStack() as stack:

        def start(redis_url: str) -> str:
            url = f"127.0.0.1:{free_port()}"
            command = [sys.executable, "-m", "gunicorn", "backend.wsgi:application", "--bind", url,
                       "--worker-class", "gthread", "--threads", "32", "--no-control-socket"]  # fmt: skip
            environment = bare_environment(SETTINGS | {"REDIS_URL": redis_url})
            child = Child.start(command, log_path=tmp_path / "api.log", env=environment, cwd=REPOSITORY)
            stack.callback(child.stop)
            wait_until(lambda: answers(f"http://{url}/health"), "the API", child.log_tail)
            return f"http://{url}"

        yield start


def test_it_starts_and_sets_up_without_redis(start_api: StartApi) -> None:
    # given no Redis
    url = start_api("redis://127.0.0.1:1/0")

    # when / then
    health = requests.get(f"{url}/health", timeout=60).json()
    assert (health["status"], health["redis"]) == ("UP", "down (ConnectionError)")
    version = requests.post(f"{url}/setup", json=recorded("setup").body, timeout=60).json()["model_version"]
    assert version == "demo-0123abcd.3856e6c4"
    assert requests.post(f"{url}/predict", json=OPENED, timeout=60).status_code == 503


def test_health_answers_while_every_seat_waits(start_api: StartApi, redis_url: str) -> None:
    # given more opened tasks than seats, and no worker yet
    settings = read_settings(SETTINGS | {"REDIS_URL": redis_url.removesuffix("/0") + "/7"})
    worker = HandWorker(settings)
    worker.redis.flushdb()
    url = start_api(settings.redis_url)

    def open_task(task_id: int) -> list[object]:
        body = OPENED | {"tasks": [OPENED["tasks"][0] | {"id": task_id}]}
        return list(requests.post(f"{url}/predict", json=body, timeout=120).json()["results"])

    with ThreadPoolExecutor(2 * SEATS) as pool:
        waiting = [pool.submit(open_task, task_id) for task_id in range(1, 2 * SEATS + 1)]
        messages = [worker.take("predict.interactive") for _ in waiting]

        # when Label Studio asks for the backend's health
        health = requests.get(f"{url}/health", timeout=30).json()
        still_waiting = sum(not answer.done() for answer in waiting)

        # then it is answered before them, and each of them is served in the end
        assert health["open_jobs"] == 2 * SEATS
        assert still_waiting >= SEATS
        for message in messages:
            worker.run(message)
        answered = sum(answer.result() != [[]] for answer in waiting)
    written = {(write.id, write.run) for write in worker.written()}
    assert answered + len(written) == 2 * SEATS
    assert answered >= SEATS
