"""Real services for this folder: Redis, Label Studio, Chromium. Missing on a laptop: skip. Missing in CI: fail.

Called by: pytest. Servers live for the whole session; each test makes a project of its own.
Must not import: mocks of any kind.
Example: def test_connects(label_studio, make_project): label_studio.backends(make_project(LABEL_CONFIG))
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from contract import status
from contract.broker import connect_redis
from contract.settings import read_settings
from groundcrew.crew import Crew
from groundcrew.demo.scenes import make_images, make_label_config
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer
from groundcrew.label_studio.venv import InstallError
from tests.fakes.showcase import SHELF, Showcase
from tests.fakes.stub_backend import StubBackend
from tests.services.machine import REPOSITORY, absent
from tests.services.pages import LabelStudioPages
from tests.services.redis_servers import serve_redis
from tests.services.status_site import ANSWER_MS, START_MS, Site, open_tab, serve
from tests.services.trainers import annotate
from worker.labelstudio import LabelStudio

#: A test's limit: the first one of a fresh clone installs Label Studio and starts it and a crew, on a busy machine.
TEST_LIMIT_S = 900
#: For boxes of an opened task: the default of 5 s is for people, and too little for a machine with more to do.
PREDICT_WAIT_S = "60"

#: No sandbox: CI runs as root. The rest keeps the browser from talking to anyone but Label Studio.
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_LIMIT_S))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of its own on a free port; empty at the start, gone at the end."""
    with serve_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """The session's Redis as our processes reach it, empty."""
    with connect_redis(read_settings({"REDIS_URL": redis_url})) as client:
        client.flushall()
        yield client


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the records no time passes: else the pace, which is that of the minute that runs, falls from look to look."""
    now_s = time.time()
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now_s))


@pytest.fixture(scope="session")
def label_studio_venv() -> Path:
    """Where Label Studio is installed, or will be by the first test that starts it."""
    return REPOSITORY / ".venv-label-studio"


@pytest.fixture(scope="session")
def label_studio_server(
    tmp_path_factory: pytest.TempPathFactory, label_studio_venv: Path
) -> Iterator[LabelStudioServer]:
    folder = tmp_path_factory.mktemp("label-studio")
    try:
        server = LabelStudioServer.start(venv_dir=label_studio_venv, data_dir=folder, say=print)
    except InstallError as error:
        absent(f"Label Studio ({error})")
    with server:
        yield server


@pytest.fixture(scope="session")
def label_studio_token(label_studio_server: LabelStudioServer) -> str:
    return make_access_token(label_studio_server.url, ADMIN_EMAIL, ADMIN_PASSWORD)


@pytest.fixture
def connection(label_studio_server: LabelStudioServer, label_studio_token: str) -> Iterator[LabelStudio]:
    """As the writer has it."""
    known = {"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token}
    connection = LabelStudio(read_settings(known))
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def label_studio(label_studio_server: LabelStudioServer, label_studio_token: str) -> LabelStudioClient:
    """The administrator's client of a running Label Studio."""
    return LabelStudioClient(label_studio_server.url, label_studio_token)


@pytest.fixture
def make_project(label_studio: LabelStudioClient) -> Iterator[Callable[[str], int]]:
    """Makes a project from a label config; all are deleted after the test."""
    made: list[int] = []

    def make(label_config: str) -> int:
        made.append(label_studio.create_project(f"test project {len(made)}", label_config))
        return made[-1]

    yield make
    for project in made:
        label_studio.delete_project(project)


@pytest.fixture
def annotated(label_studio: LabelStudioClient, make_project: Callable[[str], int]) -> int:
    """A project with a few annotated images."""
    project = make_project(make_label_config())
    annotate(label_studio, project, make_images(6, first_seed=990))
    return project


@pytest.fixture
def trainer_variables(
    redis_url: str, label_studio_server: LabelStudioServer, label_studio_token: str, tmp_path: Path
) -> dict[str, str]:
    """What a trainer's settings are read from."""
    return {"REDIS_URL": redis_url, "LABEL_STUDIO_URL": label_studio_server.url,
            "LABEL_STUDIO_API_KEY": label_studio_token, "MODEL_DIR": str(tmp_path / "models")}  # fmt: skip


@pytest.fixture(scope="session")
def crew(
    tmp_path_factory: pytest.TempPathFactory, label_studio_server: LabelStudioServer, label_studio_token: str
) -> Iterator[Crew]:
    """`groundcrew up` with the tiny model, ready to be connected; it writes back to the session's Label Studio."""
    settings = {"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token,
                "PREDICT_WAIT_S": PREDICT_WAIT_S}  # fmt: skip
    with Crew.start(tmp_path_factory.mktemp("crew"), settings) as running:
        yield running


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """One for all tests: a second one in the same thread refuses to start."""
    expect.set_options(timeout=ANSWER_MS)
    with sync_playwright() as playwright:
        yield playwright


def find_chromium() -> str:
    return shutil.which("chromium") or shutil.which("google-chrome") or absent("chromium")


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """A headless Chromium whose contexts remember nothing of each other."""
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS, timeout=START_MS)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def browser_tab(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One tab of a headless Chromium with an empty profile."""
    context = playwright.chromium.launch_persistent_context(
        tmp_path_factory.mktemp("chromium"),
        executable_path=find_chromium(),
        headless=True,
        args=CHROMIUM_FLAGS,
        timeout=START_MS,
        viewport={"width": 1400, "height": 900},
    )
    yield context.pages[0]
    context.close()


@pytest.fixture(scope="session")
def pages(browser_tab: Page, label_studio_server: LabelStudioServer) -> LabelStudioPages:
    """Label Studio's pages with the administrator signed in."""
    signed_in = LabelStudioPages(browser_tab, label_studio_server.url, REPOSITORY / "tests" / "out")
    signed_in.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    return signed_in


@pytest.fixture
def stub_backend() -> Iterator[StubBackend]:
    with StubBackend.start() as stub:
        yield stub


@pytest.fixture
def site(redis_url: str, client: redis.Redis, tmp_path: Path) -> Iterator[Site]:
    """One quiet project with two versions of its own; the rest is up to the test."""
    settings = read_settings({"REDIS_URL": redis_url, "MODEL_DIR": str(tmp_path), "LABEL_STUDIO_URL": "http://studio:8080",
                              "LABEL_STUDIO_API_KEY": "token"})  # fmt: skip
    showcase = Showcase(settings, client)
    showcase.add_versions(1)
    showcase.add_project(1, "Shelves", SHELF)
    with serve(settings, showcase) as site:
        yield site


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console reports; anything left in it fails the test."""
    return []


@pytest.fixture
def page(chromium: Browser, complaints: list[str]) -> Iterator[Page]:
    with open_tab(chromium, complaints) as tab:
        yield tab
    assert complaints == []
