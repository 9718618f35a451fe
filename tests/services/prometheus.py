"""A real Prometheus on loopback, with the project's own configuration and rules, scraping every second.

Called by: tests/services/test_monitoring.py. Must not import: backend, worker.
Example: with Prometheus.start(program, folder, target="127.0.0.1:9090") as prometheus: prometheus.query("up")
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import yaml

from groundcrew.child import Child, free_port
from tests.services.machine import REPOSITORY
from tests.services.waiting import answers, wait_until

CONFIGURATION = REPOSITORY / "deploy" / "prometheus"


class Prometheus:
    """A running server; its data lies in a folder of the test's."""

    def __init__(self, child: Child, url: str) -> None:
        self._child, self.url = child, url

    @classmethod
    def start(cls, program: str, folder: Path, *, target: str) -> Prometheus:
        shutil.copy(CONFIGURATION / "alerts.yml", folder)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(target)))
        port = free_port()
        command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                   f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        server = cls(Child.start(command, log_path=folder / "prometheus.log"), f"http://127.0.0.1:{port}")
        try:
            wait_until(lambda: answers(f"{server.url}/-/ready"), "Prometheus", server._child.log_tail)
        except BaseException:
            server.stop()
            raise
        return server

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series it gives now. Fails on an expression that Prometheus does not take."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=60).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        groups = requests.get(f"{self.url}/api/v1/rules", timeout=60).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def stop(self) -> None:
        self._child.stop()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _configuration(target: str) -> dict[str, Any]:
    """The one that is deployed, with another target, no secret, and less patience."""
    found = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())
    found["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = found["scrape_configs"]
    del job["authorization"]
    job["static_configs"] = [{"targets": [target]}]
    return dict(found)
