"""Films the loop: images without boxes, boxes appear, one is corrected, a training makes the model better.

Called by: `make animation`. Must not import: backend, worker.
All of it is real: a Label Studio, a crew, a fine-tune of the tiny model on 40 images with a shape that it has never
seen, and a headless Chromium. Takes some minutes, most of them the training; writes docs/images/loop.webp.
Example: python -m docs.animation
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, ViewportSize

from docs.stage import ANNOTATED, IMAGES, NEW, Stage, chromium, new_scenes, set_up
from tests.services.test_finetune_loop import as_regions, label_config, upload

TARGET = IMAGES / "loop.webp"
LIMIT_BYTES = 2_000_000
WINDOW: ViewportSize = {"width": 1280, "height": 760}
FRAME_PX, CAPTION_PX = (960, 570), 46


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

    def __init__(self, stage: Stage) -> None:
        self._stage, self._client, self._crew, self._pages = stage, stage.client, stage.crew, stage.pages
        self._page = stage.page
        self._film = Film(stage.page)

    def play(self) -> None:
        project = self._client.create_project("Shapes", label_config())
        scenes = upload(self._client, project, new_scenes(ANNOTATED))
        self._show_tasks(project, "1  New images arrive in Label Studio. None has a box.", 2.0)
        self._client.connect_backend(project, self._crew.url, title="Groundcrew")
        self._pages.read_backend_card(project, "Groundcrew")
        self._film.shoot("2  Connect the crew: Connected.", 1.8)
        self._watch_boxes_arrive(project, len(scenes))
        first = min(scenes)
        self._stage.open_task(project, first)
        self._film.shoot(f"4  Boxes for every label, except for one the model never learned: {NEW.shape}.", 3.0)
        for task, scene in scenes.items():
            self._client.annotate(task, as_regions(scene))
        self._stage.open_task(project, first)
        self._film.shoot(f"5  People correct what is wrong, and draw the {NEW.shape}.", 2.6)
        self._train(project)
        self._show_what_it_learned(project)
        self._film.write(TARGET)

    def _show_tasks(self, project: int, caption: str, duration_s: float) -> None:
        self._stage.show_tasks(project)
        self._film.shoot(caption, duration_s)

    def _watch_boxes_arrive(self, project: int, tasks: int) -> None:
        self._client.retrieve_predictions(project)
        for part in (0.3, 0.7, 1.0):
            self._stage.wait_for(lambda least=part * tasks: len(self._stage.predicted(project)) >= least)
            self._show_tasks(project, "3  The crew draws the boxes, in the background, once each.", 0.7)

    def _train(self, project: int) -> None:
        self._pages.start_training(project, "Groundcrew")
        self._film.shoot("6  Start Training.", 1.2)
        self._stage.show_status(f"/ui/projects/{project}")
        shown = -1.0

        def shoot_progress(record: dict[str, Any]) -> None:
            nonlocal shown
            part = float(record.get("iteration", 0)) / float(record.get("iterations", 1e9))
            if part >= shown + 0.3:
                shown = part
                self._show_project_page("finetunes")
                self._film.shoot("6  A trainer learns from the corrections, and measures before and after.", 0.8)

        record = self._stage.follow_finetune(project, shoot_progress)
        self._show_project_page("models")
        gain = f"mAP, weighted by boxes: {record['weighted_map_base']:.2f} -> {record['weighted_map']:.2f}"
        self._film.shoot(f"7  Better: {gain}. It becomes current, without a restart.", 2.6)

    def _show_project_page(self, section: str) -> None:
        self._page.reload()
        self._page.evaluate("section => document.getElementById(section).scrollIntoView()", section)
        time.sleep(0.3)

    def _show_what_it_learned(self, project: int) -> None:
        new = upload(self._client, project, new_scenes(1, first=500))
        task = min(new)
        self._stage.wait_for(lambda: task in self._stage.predicted(project))
        self._stage.open_task(project, task)
        self._film.shoot(f"8  The next image: its {NEW.shape} is found, and so is everything else.", 3.4)


def main() -> None:
    with chromium() as browser, set_up(browser, WINDOW) as stage:
        Loop(stage).play()


if __name__ == "__main__":
    main()
