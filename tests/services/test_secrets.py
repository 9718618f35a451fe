"""Marked secrets through a whole crew, with failures on the way: none is in Redis, a log, an answer, flower's events.

Run by: pytest. Real Redis with a password, real API, worker and writer processes; a Label Studio that knows one token.
Must not import: torch.
Example: pytest tests/services/test_secrets.py
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from groundcrew.crew import Crew
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.server import LabelStudioServer
from tests.fakes.recorded import recorded
from tests.services.redis_servers import serve_redis

REDIS_PASSWORD = "mark-redis-password"
BASIC_PASSWORD = "mark-basic-password"
WEBHOOK_SECRET = "mark-webhook-secret"
API_TOKEN = "mark-api-token"
IN_BODIES = {name: f"mark-{name}" for name in ("project-token", "login", "password", "access-token", "signature")}
PATIENCE_S = 240.0
LABELS = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="red circle"/></RectangleLabels></View>"""


@pytest.fixture(scope="module")
def guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_redis(tmp_path_factory.mktemp("guarded-redis"), REDIS_PASSWORD) as url:
        yield url


class Wire:
    """Every command that any client sends to Redis, the values it writes included (AUTH is never among them)."""

    def __init__(self, url: str) -> None:
        self.commands: list[str] = []
        self._client = redis.Redis.from_url(url, socket_timeout=None)  # by default it ends after five silent seconds
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            with self._client.monitor() as monitor:
                for command in monitor.listen():
                    self.commands.append(str(command["command"]))
        except (redis.RedisError, ValueError, OSError):
            return  # the server has gone: the test is over


class Caller:
    """Asks the API as Label Studio does, and keeps every answer."""

    def __init__(self, url: str) -> None:
        self._url, self.answers = url, []

    def __call__(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        basic = base64.b64encode(f"crew:{BASIC_PASSWORD}".encode()).decode()
        sent = {"Authorization": f"Basic {basic}", "Content-Type": "application/json", **headers}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        self.answers.append(text)
        return status, text


def bodies(project_id: int, task_ids: list[int]) -> dict[str, Any]:
    """A /predict and a webhook with a mark in every place where Label Studio, or a task, may hold a secret."""
    images = [
        f"https://127.0.0.1:1/a.png?X-Amz-Signature={IN_BODIES['signature']}",  # forbidden
        f"https://user:{IN_BODIES['password']}@example.org/a.png",  # forbidden
        f"/data/upload/{project_id}/absent.png?token={IN_BODIES['signature']}",  # 404
        f"data:image/png;base64,{IN_BODIES['signature']}",  # unreadable
    ]
    task = recorded("predict-batch").body["tasks"][0]
    pairs = zip(task_ids, images, strict=True)
    tasks = [task | {"id": n, "project": project_id, "data": {"image": image}} for n, image in pairs]
    project = {"id": project_id, "title": "t", "label_config": LABELS, "token": IN_BODIES["project-token"],
               "task_data_login": IN_BODIES["login"], "task_data_password": IN_BODIES["password"]}  # fmt: skip
    params = {"login": IN_BODIES["login"], "password": IN_BODIES["password"], "context": None}
    return {
        "setup": {"project": f"{project_id}.1", "schema": LABELS, "access_token": IN_BODIES["access-token"]},
        "predict": {"project": f"{project_id}.1", "label_config": LABELS, "tasks": tasks, "params": params},
        "created": {"action": "TASKS_CREATED", "project": project, "tasks": tasks},
        "broken": {"action": "PROJECT_UPDATED", "project": project | {"label_config": "<broken"}},
    }


def test_no_secret_is_kept_or_shown_anywhere(
    tmp_path: Path, guarded_redis: str, label_studio_server: LabelStudioServer, label_studio_token: str,
    label_studio: LabelStudioClient, make_project: Any,
) -> None:  # fmt: skip
    # given a crew whose every secret is marked, and a project with tasks
    project_id = make_project(LABELS)
    sent, wire = bodies(project_id, [9001, 9002, 9003, 9004]), Wire(guarded_redis)
    settings = {
        "LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token,
        "REDIS_URL": guarded_redis, "BASIC_AUTH_USER": "crew", "BASIC_AUTH_PASS": BASIC_PASSWORD,
        "WEBHOOK_SECRET": WEBHOOK_SECRET, "API_TOKEN": API_TOKEN, "LOG_LEVEL": "DEBUG",
    }  # fmt: skip
    with Crew.start(tmp_path, settings) as crew:
        ask = Caller(crew.url)

        # when Label Studio and strangers call, rightly and wrongly, and every image fails in its own way
        assert ask("/setup", sent["setup"])[0] == 200
        assert ask("/predict", sent["predict"])[0] == 200
        assert ask(f"/s/{WEBHOOK_SECRET}/webhook", sent["created"], Authorization="")[0] == 200
        assert ask(f"/webhook/{WEBHOOK_SECRET}", sent["broken"], Authorization="")[0] == 400
        assert ask("/webhook", sent["created"], Authorization=f"Bearer {API_TOKEN}")[0] == 200
        assert ask(f"/webhook/{WEBHOOK_SECRET}-guess", sent["created"], Authorization="")[0] == 401
        assert ask("/metrics", Authorization=f"Bearer {API_TOKEN}-guess")[0] == 401
        failed = wait_for_failures(ask, project_id, 3)
        for path in ("/", "/jobs", "/metrics", "/versions", "/health", *(f"/jobs/{job_id}" for job_id in failed)):
            assert ask(path)[0] == 200
        with redis.Redis.from_url(guarded_redis, decode_responses=True) as client:
            kept = dump(client)
    log = (tmp_path / "groundcrew.log").read_text(errors="replace")

    # then what was written, logged or answered holds none of them
    secrets = [REDIS_PASSWORD, BASIC_PASSWORD, WEBHOOK_SECRET, API_TOKEN, label_studio_token,
               base64.b64encode(f"crew:{BASIC_PASSWORD}".encode()).decode(),
               *(IN_BODIES[name] for name in ("project-token", "login", "access-token"))]  # fmt: skip
    written = "\n".join(map(unpack, wire.commands))
    assert any("task_id=9001" in event for event in events(wire))
    assert len(wire.commands) > 100
    assert "gc:" in written
    shown = {"log": log, "answers": "\n".join(ask.answers)}
    for place, text in {"Redis commands": written, "Redis": unpack(kept), **shown}.items():
        assert [secret for secret in secrets if secret in text] == [], place
    # an image's address has to be with its job, but is never shown
    for place, text in {**shown, "events": "\n".join(events(wire))}.items():
        assert [secret for secret in IN_BODIES.values() if secret in text] == [], place


def wait_for_failures(ask: Caller, project_id: int, count: int) -> list[str]:
    end = time.monotonic() + PATIENCE_S
    while True:
        found = json.loads(ask(f"/jobs?project={project_id}")[1])
        if len(found["failures"]) >= count:
            return [str(failure["id"]) for failure in found["failures"]]
        assert time.monotonic() < end, found
        time.sleep(0.3)


def dump(client: redis.Redis) -> str:
    """Every key and value there is."""
    read = {"string": client.get, "hash": client.hgetall, "list": lambda key: client.lrange(key, 0, -1),
            "zset": lambda key: client.zrange(key, 0, -1), "set": client.smembers}  # fmt: skip
    return "\n".join(f"{key} {read[client.type(key)](key)}" for key in client.keys("*") if client.type(key) in read)


def events(wire: Wire) -> list[str]:
    """What flower sees of tasks: events, and the description that each message's header gives of its job."""
    sent = [unpack(command) for command in wire.commands if "celeryev" in command]
    header = re.compile(r"kwargsrepr[\\\"]+: ?[\\\"]+([^\\\"]*)")
    return sent + [found for command in wire.commands for found in header.findall(command)]


def unpack(text: str) -> str:
    """The text, and the bodies that Celery's messages carry in base64."""
    bodies = re.findall(r"body[\\\"]+: ?[\\\"]+([A-Za-z0-9+/]+=*)", text)
    return "\n".join([text, *(base64.b64decode(body).decode("utf-8", "replace") for body in bodies)])
