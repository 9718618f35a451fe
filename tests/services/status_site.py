"""The status page's own small world: a real API over a real Redis and registry, and a tab that complains.

Called by: tests/services/test_status_page*.py. Must not import: torch.
Example: with serve(settings, showcase) as site: page.goto(site.url)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from backend.app import create_app
from contract.settings import Settings
from tests.fakes.showcase import Showcase

LIVE_MS = 2_000  #: within which the page promises to show a change
ANSWER_MS = 30_000  #: for a busy machine to answer and draw
START_MS = 180_000  #: for the browser's start on one
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)  #: of a frozen tab


@dataclass(frozen=True)
class Site:
    """A running API, and what its Redis and registry hold."""

    url: str
    settings: Settings
    showcase: Showcase


@contextmanager
def serve(settings: Settings, showcase: Showcase) -> Iterator[Site]:
    server = make_server("127.0.0.1", 0, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_port}", settings, showcase)
    finally:
        showcase.close()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def open_tab(chromium: Browser, complaints: list[str]) -> Iterator[Page]:
    """A tab of an English browser that remembers nothing; what its console reports is added to `complaints`."""
    context = chromium.new_context(locale="en-US", viewport={"width": 1240, "height": 900})
    context.set_default_timeout(2 * ANSWER_MS)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield tab
    finally:
        context.close()


def open_frozen(page: Page, url: str) -> None:
    """Open a page whose clock stands still: how long this machine takes counts for nothing."""
    page.clock.install(time=NOON)
    page.goto(url)
    page.clock.pause_at(NOON + timedelta(hours=1))


def pass_promised_time(page: Page) -> None:
    """The page's own clock goes on by as much as it may take to show a change."""
    page.clock.run_for(LIVE_MS)


def confirm(page: Page) -> None:
    """Answer the question that a button asks."""
    expect(page.locator("#confirm")).to_be_visible()
    page.get_by_role("button", name="Yes, do it").click()
