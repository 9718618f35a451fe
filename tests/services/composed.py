"""The crew as docker-compose runs it: our own files, a name and ports of its own, secrets as `make env` makes them.

Called by: tests/services/test_compose*.py, test_image_compiles.py. Must not import: backend, worker.
Example: with Composed.start(folder, {"LABEL_STUDIO_URL": url}, token) as crew: crew.scale(worker=4)
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from groundcrew.child import free_port
from tests.services.machine import REPOSITORY, absent

BUILD_DEADLINE_S = 2400
COMMAND_DEADLINE_S = 300


def docker(*arguments: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
    return _run(["docker", *arguments], deadline_s=deadline_s)


def require_engine() -> None:
    """A laptop may have no Docker engine; CI must have one."""
    for program in ("docker", "docker-compose"):
        if shutil.which(program) is None:
            absent(program)
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        absent("a Docker engine that answers")


class Composed:
    """One running project of docker-compose."""

    def __init__(self, folder: Path, settings: Mapping[str, str], token: str) -> None:
        self.name = f"groundcrew-test-{os.getpid()}"
        self._secrets = folder / "secrets"
        command = [sys.executable, str(REPOSITORY / "deploy" / "make_env.py"), str(REPOSITORY / ".env.example")]
        subprocess.run([*command, str(folder / ".env"), str(self._secrets)], check=True)
        (self._secrets / "label_studio_api_key").write_text(token)
        self.url, self.flower_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        published = {"API_PUBLISHED": self.url, "FLOWER_PUBLISHED": self.flower_url}
        self._settings = {name: url.removeprefix("http://") for name, url in published.items()}
        self._settings |= {"SECRETS_DIR": str(self._secrets), "COMPOSE_PROJECT_NAME": self.name, **settings}

    def secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    def write_secret(self, name: str, text: str) -> None:
        """In place: a container sees it in the file that it has mounted."""
        (self._secrets / name).write_text(text)

    def compose(self, *arguments: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        return _run(["docker-compose", *arguments], environment=self._settings, deadline_s=deadline_s)

    def build(self) -> None:
        self.compose("build", "api", "worker", deadline_s=BUILD_DEADLINE_S)

    def scale(self, **services: int) -> None:
        scales = [option for name, count in services.items() for option in ("--scale", f"{name}={count}")]
        self.up(*scales, "redis", "api", "worker", "writer", "trainer", "flower")

    def up(self, *services: str) -> None:
        """These, and what they depend on."""
        self.compose("up", "--detach", "--no-build", "--no-recreate", *services)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        return dict(json.loads(docker("inspect", container))[0])

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Values by name and labels; empty while the API does not answer."""
        token = {"Authorization": f"Bearer {self.secret('api_token')}"}
        try:
            text = requests.get(f"{self.url}/metrics", headers=token, timeout=10).text
        except requests.RequestException:  # not there yet, or in the middle of a restart
            return {}
        families = text_string_to_metric_families(text)
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail=15")

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "20")

    def __enter__(self) -> Composed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def _run(command: list[str], *, environment: Mapping[str, str] | None = None, deadline_s: float) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **(environment or {})}, timeout=deadline_s,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
