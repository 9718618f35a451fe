"""A real Label Studio for the benchmarks, and projects in it whose images lie on this disk.

Called by: benchmarks/pipeline.py, benchmarks/writeback.py. Must not import: backend, worker, torch.
Example: `with start_label_studio(folder) as site: project = site.make_project(2000)`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crew import REPOSITORY, process_cpu_s
from benchmarks.load import address
from groundcrew.demo.scenes import make_label_config
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer

IMPORT_TASKS = 500  #: in one request


@dataclass(frozen=True)
class Site:
    """A running Label Studio and its administrator."""

    url: str
    token: str
    client: LabelStudioClient
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds of Label Studio since its start."""
        return process_cpu_s(self.pid)

    def make_project(self, tasks: int) -> int:
        """A project with so many tasks and no backend yet."""
        project = self.client.create_project("benchmark", make_label_config())
        for first in range(0, tasks, IMPORT_TASKS):
            numbers = range(first, min(first + IMPORT_TASKS, tasks))
            self.client.import_tasks(project, [address(number) for number in numbers])
        return project

    def environment(self, pictures: Path) -> dict[str, str]:
        """What a crew needs to write back here and to find the images."""
        return {
            "LABEL_STUDIO_URL": self.url, "LABEL_STUDIO_API_KEY": self.token, "LOCAL_FILES_ROOT": str(pictures),
        }  # fmt: skip


@contextmanager
def start_label_studio(folder: Path) -> Iterator[Site]:
    """On SQLite, with its development server, as `label-studio start` gives it to most people."""
    venv = REPOSITORY / ".venv-label-studio"
    with LabelStudioServer.start(venv_dir=venv, data_dir=folder / "label-studio", say=lambda text: None) as server:
        token = make_access_token(server.url, ADMIN_EMAIL, ADMIN_PASSWORD)
        yield Site(server.url, token, LabelStudioClient(server.url, token), server.pid)
