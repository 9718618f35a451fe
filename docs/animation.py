"""Films the loop: images without boxes, boxes appear, one is corrected, a training makes the model better.

Called by: `make animation`. Must not import: backend, worker.
All of it is real: a Label Studio, a crew, a fine-tune of the tiny model on 40 images with a shape that it has never
seen, and a headless Chromium. Takes some minutes, most of them the training; writes docs/images/loop.webp.
Example: python -m docs.animation
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, sync_playwright

from benchmarks.finetune import NEW_CLASSES, make_new_scene
from groundcrew.crew import Crew
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer
from tests.services.pages import LabelStudioPages
from tests.services.test_finetune_loop import as_regions, label_config, upload

TARGET = Path(__file__).parent / "images" / "loop.webp"
LIMIT_BYTES = 2_000_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
WINDOW = {"width": 1280, "height": 760}
FRAME_PX, CAPTION_PX = (960, 570), 46
NEW = NEW_CLASSES[0]  #: a shape and a word that the tiny model has never seen
ANNOTATED = 40
FIRST_SEED = 990_000
DEADLINE_S = 900.0


class Film:
    """Frames with a caption each, and how long they stay."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._durations_ms: list[int] = []

    def shoot(self, caption: str, duration_s: float) -> None:
        shot = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        frame = Image.new("RGB", (FRAME_PX[0], FRAME_PX[1] + CAPTION_PX), (20, 60, 60))
        frame.paste(shot.resize(FRAME_PX, Image.Resampling.LANCZOS))
        draw = ImageDraw.Draw(frame)
        draw.text((18, FRAME_PX[1] + CAPTION_PX // 2), caption, fill="white", anchor="lm",
                  font=ImageFont.load_default(22))  # fmt: skip
        self._frames.append(frame)
        self._durations_ms.append(round(1000 * duration_s))
        print(f"{duration_s:4.1f} s  {caption}", flush=True)

    def write(self, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        for quality in (80, 65, 50, 35):
            self._frames[0].save(target, save_all=True, append_images=self._frames[1:], duration=self._durations_ms,
                                 loop=0, quality=quality, method=6)  # fmt: skip
            if target.stat().st_size < LIMIT_BYTES:
                break
        print(f"{target}: {len(self._frames)} frames, {sum(self._durations_ms) / 1000:.0f} s, "
              f"{target.stat().st_size / 1e6:.2f} MB")  # fmt: skip


class Loop:
    """The people and machines in front of the camera."""

    def __init__(self, client: LabelStudioClient, crew: Crew, page: Page, pages: LabelStudioPages) -> None:
        self._client, self._crew, self._page, self._pages = client, crew, page, pages
        self._film = Film(page)

    def play(self) -> None:
        project = self._client.create_project("Shapes", label_config())
        scenes = upload(self._client, project, _scenes(ANNOTATED))
        self._show_tasks(project, "1  New images arrive in Label Studio. None has a box.", 2.0)
        self._client.connect_backend(project, self._crew.url, title="Groundcrew")
        self._pages.read_backend_card(project, "Groundcrew")
        self._film.shoot("2  Connect the crew: Connected.", 1.8)
        self._watch_boxes_arrive(project, len(scenes))
        first = min(scenes)
        self._open(project, first)
        self._film.shoot(f"4  Boxes for every label, except for one the model never learned: {NEW.shape}.", 3.0)
        for task, scene in scenes.items():
            self._client.annotate(task, as_regions(scene))
        self._open(project, first)
        self._film.shoot(f"5  People correct what is wrong, and draw the {NEW.shape}.", 2.6)
        self._train(project)
        self._show_what_it_learned(project)
        self._film.write(TARGET)

    def _show_tasks(self, project: int, caption: str, duration_s: float) -> None:
        self._page.goto(f"{self._client.url}/projects/{project}/data")
        self._page.wait_for_load_state("networkidle")
        time.sleep(1.0)  # thumbnails come last
        self._film.shoot(caption, duration_s)

    def _watch_boxes_arrive(self, project: int, tasks: int) -> None:
        self._client.retrieve_predictions(project)
        for part in (0.3, 0.7, 1.0):
            self._wait_for(lambda least=part * tasks: len(self._client.predictions(project)) >= least)
            self._show_tasks(project, "3  The crew draws the boxes, in the background, once each.", 0.7)

    def _train(self, project: int) -> None:
        self._pages.start_training(project, "Groundcrew")
        self._film.shoot("6  Start Training.", 1.2)
        self._page.goto(f"{self._crew.url}/ui/projects/{project}?lang=en&theme=light")
        shown = -1.0
        while (record := self._job(project))["state"] in ("queued", "running"):
            part = float(record.get("iteration", 0)) / float(record.get("iterations", 1e9))
            if part >= shown + 0.3:
                shown = part
                self._show_project_page("finetunes")
                self._film.shoot("6  A trainer learns from the corrections, and measures before and after.", 0.8)
            time.sleep(0.5)
        if record.get("decision") != "promoted":
            sys.exit(f"the training did not make it better: {record}")
        self._show_project_page("models")
        gain = f"mAP {record['map_base']:.2f} -> {record['map']:.2f}"
        self._film.shoot(f"7  Better: {gain}. It becomes current, without a restart.", 2.6)

    def _show_project_page(self, section: str) -> None:
        self._page.reload()
        self._page.evaluate("section => document.getElementById(section).scrollIntoView()", section)
        time.sleep(0.3)

    def _show_what_it_learned(self, project: int) -> None:
        new = upload(self._client, project, _scenes(1, first=500))
        task = min(new)
        self._wait_for(lambda: any(prediction.task == task for prediction in self._client.predictions(project)))
        self._open(project, task)
        self._film.shoot(f"8  The next image: its {NEW.shape} is found, and so is everything else.", 3.4)

    def _open(self, project: int, task: int) -> None:
        self._pages.open_task(project, task)
        time.sleep(1.0)  # the editor fades its boxes in

    def _job(self, project: int) -> dict:
        answer = requests.get(f"{self._crew.url}/jobs", params={"project": project}, timeout=10).json()
        return answer["finetunes"][0]

    def _wait_for(self, condition) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end_s:
                sys.exit(f"that took longer than {DEADLINE_S:.0f} s:\n{self._crew.log_tail()}")
            time.sleep(0.2)


def _scenes(count: int, first: int = 0) -> list:
    return [make_new_scene(NEW, FIRST_SEED + first + number) for number in range(count)]


@contextmanager
def _stage(folder: Path) -> Iterator[Loop]:
    program = shutil.which("chromium") or sys.exit("chromium is missing (Debian: apt-get install chromium)")
    with ExitStack() as stack:
        server = stack.enter_context(
            LabelStudioServer.start(venv_dir=Path(".venv-label-studio"), data_dir=folder / "label-studio", say=print)
        )
        token = make_access_token(server.url, ADMIN_EMAIL, ADMIN_PASSWORD)
        (folder / "crew").mkdir()
        settings = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": token, "OMP_NUM_THREADS": "1"}
        crew = stack.enter_context(Crew.start(folder / "crew", settings))
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=program, args=FLAGS)
        page = browser.new_page(viewport=WINDOW)
        pages = LabelStudioPages(page, server.url, folder)
        pages.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
        yield Loop(LabelStudioClient(server.url, token), crew, page, pages)
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="groundcrew-film-") as folder, _stage(Path(folder)) as loop:
        loop.play()


if __name__ == "__main__":
    main()
