"""The real thing before a camera: a Label Studio, a crew and a headless Chromium, with what pictures and film share.

Called by: docs/animation.py, docs/screenshots.py, docs/screenshots_real.py. Must not import: backend, worker.
Needs Debian's chromium. The window's size is in pixels, deadlines are in seconds.
Example: with chromium() as browser, set_up(browser, WINDOW) as stage: stage.show_tasks(project)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from benchmarks.finetune import NEW_CLASSES, make_new_scene
from groundcrew.crew import Crew
from groundcrew.demo.run import LABEL_STUDIO_VENV
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer
from groundcrew.zoo.scenes import Scene
from tests.services.pages import LabelStudioPages

IMAGES = Path(__file__).parent / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
NEW = NEW_CLASSES[0]  #: a shape and a word that the tiny model has never seen
ANNOTATED = 40
FIRST_SEED = 990_000
DEADLINE_S = 900.0


@contextmanager
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium") or sys.exit("chromium is missing (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Stage:
    """What runs, and the tab in front of it."""

    client: LabelStudioClient
    crew: Crew
    page: Page
    pages: LabelStudioPages

    def show_tasks(self, project: int) -> None:
        """The data manager."""
        self.page.goto(f"{self.client.url}/projects/{project}/data")
        self.page.wait_for_load_state("networkidle")
        time.sleep(1.0)  # thumbnails come last

    def open_task(self, project: int, task: int) -> None:
        self.pages.open_task(project, task)
        time.sleep(1.0)  # the editor fades its boxes in

    def show_status(self, path: str, language: str = "en") -> None:
        """A page of the crew's own."""
        self.page.goto(f"{self.crew.url}{path}?lang={language}&theme=light")

    def follow_finetune(self, project: int, on_progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Calls `on_progress` with the job's record until it is over; ends the program if nothing became better."""
        while (record := self._latest_finetune(project))["state"] in ("queued", "running"):
            on_progress(record)
            time.sleep(0.5)
        if record.get("decision") != "promoted":
            sys.exit(f"the training did not make it better: {record}")
        return record

    def _latest_finetune(self, project: int) -> dict[str, Any]:
        answer = requests.get(f"{self.crew.url}/jobs", params={"project": project}, timeout=10).json()
        return dict(answer["finetunes"][0])

    def predicted(self, project: int) -> set[int]:
        """The tasks that have a prediction."""
        return {prediction.task for prediction in self.client.predictions(project)}

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Ends the program with the crew's last words after `DEADLINE_S`."""
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end_s:
                sys.exit(f"that took longer than {DEADLINE_S:.0f} s:\n{self.crew.log_tail()}")
            time.sleep(0.2)


@contextmanager
def set_up(browser: Browser, window: ViewportSize, port: int = 0) -> Iterator[Stage]:
    """All of it, signed in, without a project; `port` is the crew's, 0 any. One thread for the models."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="groundcrew-stage-")))
        server = stack.enter_context(
            LabelStudioServer.start(venv_dir=LABEL_STUDIO_VENV, data_dir=folder / "label-studio", say=print)
        )
        token = make_access_token(server.url, ADMIN_EMAIL, ADMIN_PASSWORD)
        (folder / "crew").mkdir()
        settings = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": token, "OMP_NUM_THREADS": "1"}
        crew = stack.enter_context(Crew.start(folder / "crew", settings, port=port))
        page = stack.enter_context(closing(browser.new_page(viewport=window)))
        pages = LabelStudioPages(page, server.url, folder)
        pages.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
        yield Stage(LabelStudioClient(server.url, token), crew, page, pages)


def new_scenes(count: int, first: int = 0) -> list[Scene]:
    """Pictures with the shape that the tiny model has never seen among those that it knows."""
    return [make_new_scene(NEW, FIRST_SEED + first + number) for number in range(count)]
