"""Takes the pictures of the quickstart and the tutorial from the real thing: Label Studio, a crew, a demo, a training.

Called by: `make screenshots`. Must not import: backend, worker.
Needs Debian's chromium, the port of the crew (9090, as in the tutorial), and some minutes, most of them the training.
Example: python -m docs.screenshots_real
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import ViewportSize

from docs.stage import ANNOTATED, IMAGES, NEW, Stage, chromium, new_scenes, set_up
from groundcrew.demo import run_demo
from groundcrew.demo.run import IMAGES as DEMO_IMAGES
from groundcrew.demo.scenes import make_images, make_label_config
from groundcrew.label_studio.client import ImageFile
from groundcrew.zoo.samples import write_samples
from tests.docs_blocks import DOCS, read_blocks
from tests.services.test_finetune_loop import as_regions, label_config, upload

WINDOW: ViewportSize = {"width": 1280, "height": 820}  #: narrower, and the editor hides its list of regions
PORT = 9090  #: of the crew, and its address as the tutorial gives it
CREW_URL = f"http://localhost:{PORT}"
TITLE = "Groundcrew"
LANGUAGES = {"en": "", "zh": "-zh"}  #: -> what a picture's name ends with
SHOWN = "scene-06.png"  #: of the demo: several shapes on a plain ground
MORE_IMAGES = 240  #: so many that the crew is still at it when its page is looked at
TUTORIAL_IMAGES = 12
KNOWN = ("orange triangle", "orange arrow", "black diamond", "pink circle")  #: labels beside the new one
MARGIN_PX = 16
OVERVIEW_WIDTH_PX = 860
LIMIT_BYTES = 200_000
PALETTES = (256, 128)  #: sizes to try for a picture that is larger than the limit


def main() -> None:
    take_demo()
    with chromium() as browser:
        with set_up(browser, WINDOW) as stage:
            take_quickstart(stage)
        with set_up(browser, WINDOW, port=PORT) as stage:
            take_training(stage)  # first, so that the new version is called as in the tutorial: ...-p1-1
            take_tutorial(stage)


def take_demo() -> None:
    """What `groundcrew demo` draws, smaller."""
    with tempfile.TemporaryDirectory() as folder:
        if run_demo(once=True, out_dir=Path(folder)) != 0:
            sys.exit("the demo did not pass")
        picture = Image.open(Path(folder) / "overview.png").convert("RGB")
    picture.thumbnail((OVERVIEW_WIDTH_PX, 10 * OVERVIEW_WIDTH_PX), Image.Resampling.LANCZOS)
    save(picture, "quickstart-overview")


def take_quickstart(stage: Stage) -> None:
    """The demo's project with its boxes, one of its tasks, and the crew's page while many more images arrive."""
    images = [image.file for image in make_images(DEMO_IMAGES + MORE_IMAGES)]
    project = stage.client.create_project("Groundcrew demo", make_label_config())
    stage.client.connect_backend(project, stage.crew.url, title=TITLE)
    stage.client.upload_images(project, images[:DEMO_IMAGES])
    stage.wait_for(lambda: len(stage.predicted(project)) == DEMO_IMAGES)
    stage.show_tasks(project)
    shoot(stage, "quickstart-tasks")
    (shown,) = [task for task, name in stage.client.image_names(project).items() if name == SHOWN]
    stage.open_task(project, shown)
    shoot(stage, "quickstart-task")
    stage.client.upload_images(project, images[DEMO_IMAGES:])
    stage.wait_for(lambda: len(stage.predicted(project)) >= DEMO_IMAGES + MORE_IMAGES // 4)
    for language, ending in LANGUAGES.items():
        stage.show_status("/", language)
        if not stage.page.locator(f"#project-{project} .running").count():
            sys.exit("the crew had finished before its picture was taken: make MORE_IMAGES more")
        shoot(stage, f"quickstart-status{ending}", end="#crew")


def take_training(stage: Stage) -> None:
    """A project with a shape that the model has never seen: the version that learned it, and how much better it is."""
    project = stage.client.create_project("Shapes", label_config(KNOWN))
    stage.client.connect_backend(project, CREW_URL, title=TITLE)
    scenes = upload(stage.client, project, new_scenes(ANNOTATED))
    stage.wait_for(lambda: len(stage.predicted(project)) == ANNOTATED)
    for task, scene in scenes.items():
        wanted = [one for one in as_regions(scene) if one["value"]["rectanglelabels"][0] in (*KNOWN, NEW.shape)]
        stage.client.annotate(task, wanted)
    stage.pages.start_training(project, TITLE)
    stage.follow_finetune(project, _say_progress)
    for language, ending in LANGUAGES.items():
        stage.show_status(f"/ui/projects/{project}", language)
        shoot(stage, f"tutorial-trained{ending}", start="#models", end="#tasks")


def _say_progress(record: dict[str, Any]) -> None:
    print(f"\rtraining: {record.get('iteration', 0)} of {record.get('iterations', '?')}", end="", flush=True)


def take_tutorial(stage: Stage) -> None:
    """The tutorial's project: connected, and the action that asks for boxes of images that were there before."""
    (config,) = [block.text for block in read_blocks(DOCS / "tutorial.md") if block.language == "xml"]
    project = stage.client.create_project("Tutorial", config)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_samples(Path(folder), TUTORIAL_IMAGES)
        stage.client.upload_images(project, [ImageFile(path.name, path.read_bytes()) for path in paths])
    stage.client.connect_backend(project, CREW_URL, title=TITLE)
    if not stage.pages.read_backend_card(project, TITLE).startswith("Connected"):
        sys.exit("Label Studio does not show the crew as connected")
    shoot(stage, "tutorial-connected")
    stage.pages.open_actions(project)
    stage.page.get_by_text("Retrieve Predictions").first.hover()
    shoot(stage, "tutorial-actions")


def shoot(stage: Stage, name: str, start: str = "", end: str = "") -> None:
    """The window, or the page from above the heading `start`, or its top, to above the heading `end`."""
    time.sleep(0.5)  # menus unfold, boxes fade in
    shot = Image.open(io.BytesIO(stage.page.screenshot(full_page=bool(end)))).convert("RGB")
    if end:
        top, bottom = (_top_px(stage, heading) if heading else 0 for heading in (start, end))
        shot = shot.crop((0, top, shot.width, bottom))
    save(shot, name)


def _top_px(stage: Stage, heading: str) -> int:
    """Of the free space above a heading, in pixels of the page."""
    script = "heading => document.querySelector(heading).getBoundingClientRect().top + window.scrollY"
    return round(stage.page.evaluate(script, heading)) - MARGIN_PX


def save(picture: Image.Image, name: str) -> None:
    """With all its colours, or with as many as the limit allows."""
    target = IMAGES / f"{name}.png"
    picture.save(target, optimize=True)
    for colours in PALETTES:
        if target.stat().st_size > LIMIT_BYTES:
            picture.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"\ndocs/images/{target.name}: {picture.width} x {picture.height}, {target.stat().st_size // 1000} kB")
    if target.stat().st_size > LIMIT_BYTES:
        sys.exit(f"{target} is larger than {LIMIT_BYTES // 1000} kB")


if __name__ == "__main__":
    main()
