"""Takes pictures for docs/images: the status page as it is, in a headless Chromium, over a made-up busy state.

Called by: `make screenshots`, with docs/screenshots_real.py, whose pictures are of the real thing.
Must not import: worker, but for the two functions that draw a fine-tune's curves.
Needs Debian's chromium; a Redis comes along. Example: python -m docs.screenshots
"""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page
from werkzeug.serving import make_server

from backend.app import create_app
from contract.broker import connect_redis
from contract.settings import Settings, read_settings
from docs.stage import IMAGES, chromium
from groundcrew.embedded_redis import EmbeddedRedis
from tests.fakes.showcase import Showcase

WIDE, PHONE = {"width": 1240, "height": 900}, {"width": 390, "height": 844}
TALLEST_PX = 1750  #: of a picture: a project's list of tasks goes on and on
#: name -> (path, width of the window)
SHOTS = {
    "status-light": ("/?lang=en&theme=light", WIDE),
    "status-dark": ("/?lang=en&theme=dark", WIDE),
    "status-zh": ("/?lang=zh&theme=light", WIDE),
    "status-phone": ("/?lang=en&theme=light", PHONE),
    "project-light": ("/ui/projects/1?lang=en&theme=light", WIDE),
    "project-dark-zh": ("/ui/projects/1?lang=zh&theme=dark", WIDE),
    "project-light-zh": ("/ui/projects/1?lang=zh&theme=light", WIDE),
    "model-zh": ("/ui/models/tiny-shapes-p1-2?lang=zh&theme=light", WIDE),
    "status-phone-zh": ("/?lang=zh&theme=light", PHONE),
    "project-phone": ("/ui/projects/1?lang=en&theme=light", PHONE),
    "model-light": ("/ui/models/tiny-shapes-p1-1?lang=en&theme=light", WIDE),
    "models-light": ("/ui/models?lang=en&theme=light", WIDE),
}


def main() -> None:
    if not subprocess.run(["fc-list", ":lang=zh-cn"], capture_output=True, check=False).stdout:
        sys.exit("no font has Chinese characters (Debian: apt-get install fonts-noto-cjk)")
    IMAGES.mkdir(exist_ok=True)
    with _served_showcase() as url, chromium() as browser:
        page = browser.new_page()
        for name, (path, size) in SHOTS.items():
            take(page, f"{url}{path}", size, IMAGES / f"{name}.png")
            print(f"docs/images/{name}.png")


def take(page: Page, url: str, size: dict[str, int], target: Path) -> None:
    page.set_viewport_size(size)
    page.goto(url)
    height_px = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST_PX)
    clip = {"x": 0, "y": 0, "width": size["width"], "height": height_px}
    page.screenshot(path=target, full_page=True, clip=clip)


@contextmanager
def _served_showcase() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis.start(Path(folder) / "redis") as server:
        settings = read_settings({"REDIS_URL": server.url, "MODEL_DIR": f"{folder}/models",
                                  "LABEL_STUDIO_URL": "http://localhost:8080"})  # fmt: skip
        showcase = Showcase(settings, connect_redis(settings), _draw_curves(Path(folder)))
        showcase.fill()
        try:
            with _served(settings) as url:
                yield url
        finally:
            showcase.close()


@contextmanager
def _served(settings: Settings) -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, create_app(settings), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _draw_curves(folder: Path) -> dict[str, bytes]:
    """Pictures as a fine-tune leaves them, of made-up numbers."""
    import numpy as np

    from worker.evaluate import RECALLS, Metrics, draw_precision_recall
    from worker.training.output import draw_losses

    losses = [(step, 2.6 * math.exp(-step / 130) + 0.5 + 0.12 * math.sin(step)) for step in range(400)]
    draw_losses(folder / "loss.png", losses)
    curves = {
        name: Metrics(mean, ap50, {}, {}, 32, 200, np.clip(1.02 - RECALLS**power, 0, 1))
        for name, mean, ap50, power in (("base", 0.412, 0.553, 1.2), ("candidate", 0.664, 0.817, 4.5))
    }
    draw_precision_recall(folder / "pr.png", curves)
    return {name: (folder / name).read_bytes() for name in ("loss.png", "pr.png")}


if __name__ == "__main__":
    main()
