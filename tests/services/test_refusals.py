"""What a real Label Studio shows and logs of our refusals: a full queue, labels that we cannot predict.

Run by: pytest. The API is real, under gunicorn; no worker runs, so that nothing leaves the queue by itself.
Must not import: torch.
Example: pytest tests/services/test_refusals.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from groundcrew.child import Child, bare_environment, free_port
from groundcrew.demo.scenes import make_label_config
from groundcrew.label_studio.client import LabelStudioClient, LabelStudioRefused
from groundcrew.label_studio.server import LabelStudioServer
from tests.fakes.images import plain_image
from tests.services.machine import REPOSITORY
from tests.services.waiting import answers, wait_until

ROOM = 2
SETTINGS = {
    "CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth", "PREDICT_NEW_TASKS": "false",
    "PREDICT_WAIT_S": "0.1", "MAX_WAITING_PER_PROJECT": str(ROOM),
}  # fmt: skip


@pytest.fixture
def api(
    redis_url: str, client: redis.Redis, label_studio_server: LabelStudioServer, label_studio_token: str, tmp_path: Path
) -> Iterator[str]:
    where = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "backend.wsgi:application", "--bind", where,
               "--worker-class", "gthread", "--threads", "8", "--no-control-socket"]  # fmt: skip
    known = {"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token}
    env = bare_environment(SETTINGS | known | {"REDIS_URL": redis_url})
    child = Child.start(command, env=env, cwd=REPOSITORY, log_path=tmp_path / "api.log")
    try:
        wait_until(lambda: answers(f"http://{where}/health"), "the API", child.log_tail)
        yield f"http://{where}"
    finally:
        child.stop()


def waiting(api: str, project: int) -> int:
    counts: dict[str, int] = requests.get(f"{api}/jobs", params={"project": project}, timeout=60).json()["counts"]
    return counts["queued"]


def test_label_studio_says_why_a_full_queue_refuses_and_asks_again(
    api: str, label_studio: LabelStudioClient, label_studio_server: LabelStudioServer,
    make_project: Callable[[str], int], client: redis.Redis,
) -> None:  # fmt: skip
    # given a project whose two places are taken, and a third task
    project = make_project(make_label_config())
    label_studio.upload_images(project, [plain_image(f"{n}.png") for n in range(ROOM + 1)])
    backend = label_studio.connect_backend(project, api, title="groundcrew")
    *first, third = sorted(label_studio.image_names(project))
    label_studio.retrieve_predictions(project, first)
    assert waiting(api, project) == ROOM
    sentence = f"503 Server Error: MAX_WAITING_PER_PROJECT={ROOM} jobs of project {project} are waiting; ask later"

    # when someone retrieves predictions, opens the task, or types a prompt
    retrieved = label_studio.retrieve_predictions(project, [third])
    opened = label_studio.open_task(third)
    typed = label_studio.annotate_interactively(backend.id, third, prompt("red circle"))

    # then the prompt's answer has the line; a retrieval's is the usual one, and the line is in Label Studio's log
    assert [error.startswith(sentence) for error in typed["errors"]] == [True], typed
    assert retrieved == {"processed_items": 1, "detail": "Retrieved 1 predictions"}
    assert label_studio_server.log_path.read_text(errors="replace").count(f"Error occurred: {sentence}") == 2
    assert opened["predictions"] == []
    assert (waiting(api, project), label_studio.predictions(project)) == (ROOM, [])
    assert [known.state for known in label_studio.backends(project)] == ["CO"]

    # and once there is room, the same click is enough
    client.flushall()
    label_studio.retrieve_predictions(project, [third])
    assert waiting(api, project) == 1


def prompt(text: str) -> dict[str, Any]:
    """What the editor sends when someone has typed into the prompt of the demo's label config."""
    region = {"from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": [text]}}
    return {"result": [region]}


def test_a_program_gets_503_with_the_reason_and_a_time(
    api: str, label_studio: LabelStudioClient, make_project: Callable[[str], int]
) -> None:
    project = make_project(make_label_config())
    body = {"project": f"{project}.1", "label_config": make_label_config(),
            "tasks": [{"id": n, "data": {"image": "a.png"}} for n in range(1, ROOM + 2)]}  # fmt: skip
    answer = requests.post(f"{api}/predict", json=body, timeout=60)
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "queue_full", "5")
    assert answer.reason == answer.json()["message"]


def test_who_connects_a_project_without_rectangles_is_told_in_label_studio(
    api: str, label_studio: LabelStudioClient, make_project: Callable[[str], int]
) -> None:
    choices = '<Choices name="choice" toName="image"><Choice value="a"/></Choices>'
    project = make_project(f'<View><Image name="image" value="$image"/>{choices}</View>')
    with pytest.raises(LabelStudioRefused, match=r"Reason: 400 Client Error: .*RectangleLabels"):
        label_studio.connect_backend(project, api, title="groundcrew")
