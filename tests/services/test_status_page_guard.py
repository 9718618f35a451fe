"""What keeps the status page's buttons to those who may press them, and other people's scripts out of it.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_status_page_guard.py
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient

from backend.app import create_app
from contract.errors import LabelStudioRefused
from contract.jobs import Prediction, WriteBackJob
from contract.settings import Settings, read_settings
from tests.fakes.hand_worker import HandWorker
from tests.fakes.showcase import SHELF, Showcase

HTML = {"Accept": "text/html"}
BASIC = {"BASIC_AUTH_USER": "crew", "BASIC_AUTH_PASS": "s3cret-pass"}
RIGHT = {"Authorization": "Basic " + base64.b64encode(b"crew:s3cret-pass").decode()}
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
PREDICTION = Prediction(task_id=7, model_version="tiny-shapes-p1-1.00000000", score=0.0, result=[])
OURS, THEIRS = {"Origin": "http://localhost"}, {"Origin": "http://localhost:8080"}


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return read_settings({"REDIS_URL": redis_url, "MODEL_DIR": str(tmp_path)})


@pytest.fixture
def showcase(settings: Settings, client: redis.Redis) -> Showcase:
    """A project with two versions, the first in use, a fine-tune that runs, and an image that failed."""
    showcase = Showcase(settings, client)
    showcase.add_versions(1)
    showcase.add_project(1, "Shelves", SHELF)
    showcase.add_jobs(1, failed=1)
    showcase.start_finetune(1)
    return showcase


@pytest.fixture
def browser(settings: Settings, showcase: Showcase) -> FlaskClient:
    return create_app(settings).test_client()


def buttons(showcase: Showcase) -> dict[str, dict[str, str]]:
    """Every action of the page: address -> fields of its form."""
    (failed,) = showcase.records.recent_failures(1)
    (finetune,) = showcase.finetunes.latest(1)
    return {
        f"/ui/jobs/{finetune['id']}/cancel": {},
        f"/ui/jobs/{failed['id']}/replay": {},
        "/ui/projects/1/promote": {"ref": "tiny-shapes-p1-2"},
        "/ui/projects/1/rollback": {},
        "/ui/projects/1/finetune": {},
    }


def state(showcase: Showcase) -> object:
    """All that the buttons could change."""
    finetunes = [(row["state"], row.get("cancel_requested")) for row in showcase.finetunes.latest(1)]
    return showcase.records.counts(1), finetunes, showcase.registry.current(1).ref


def token(browser: FlaskClient) -> str:
    found = CSRF.search(browser.get("/ui/projects/1", headers=HTML).text)
    assert found
    return found[1]


def press(browser: FlaskClient, path: str, fields: dict[str, str], headers: dict[str, str] = OURS) -> int:
    return browser.post(path, data={"confirmed": "yes"} | fields, headers=headers).status_code


def test_every_button_works_with_the_token_of_its_page(browser: FlaskClient, showcase: Showcase) -> None:
    csrf = token(browser)
    for path, fields in buttons(showcase).items():
        before = state(showcase)
        assert press(browser, path, fields | {"csrf": csrf}) == 303
        assert state(showcase) != before


@pytest.mark.parametrize("case", ["no token", "a guess", "another browser's", "empty cookie"])
def test_no_button_works_without_this_browsers_token(
    browser: FlaskClient, settings: Settings, showcase: Showcase, case: str
) -> None:
    # given
    token(browser)
    other = token(create_app(settings).test_client())
    csrf = {"no token": {}, "a guess": {"csrf": "guess"}, "another browser's": {"csrf": other},
            "empty cookie": {"csrf": ""}}[case]  # fmt: skip
    if case == "empty cookie":
        browser.set_cookie("gc_csrf", "")
    before = state(showcase)

    # when / then
    for path, fields in buttons(showcase).items():
        assert press(browser, path, fields | csrf) == 403
    assert state(showcase) == before


@pytest.mark.parametrize(
    "headers", [THEIRS, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"} | OURS]
)
def test_no_button_works_from_another_site_even_with_the_token(
    browser: FlaskClient, showcase: Showcase, headers: dict[str, str]
) -> None:
    csrf, before = token(browser), state(showcase)
    for path, fields in buttons(showcase).items():
        assert press(browser, path, fields | {"csrf": csrf}, headers) == 403
    assert state(showcase) == before


def test_a_browser_behind_a_proxy_is_believed(browser: FlaskClient, showcase: Showcase) -> None:
    # given a proxy that hides the name that the browser knows
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "https://crew.example.org"}
    assert press(browser, "/ui/projects/1/rollback", {"csrf": token(browser)}, headers) == 303


def test_no_button_can_be_pressed_with_get(browser: FlaskClient, showcase: Showcase) -> None:
    before = state(showcase)
    for path in buttons(showcase):
        assert browser.get(path, headers=HTML).status_code == 405
    assert state(showcase) == before


def test_everything_needs_the_password(settings: Settings, showcase: Showcase) -> None:
    # given an API with Basic auth, and a browser that has seen the page
    browser = create_app(settings.model_copy(update=read_auth())).test_client()
    csrf = CSRF.search(browser.get("/ui/projects/1", headers=HTML | RIGHT).text)
    assert csrf
    before = state(showcase)

    # when it comes without the password / then neither buttons nor pages answer, and the browser asks for it
    for path, fields in buttons(showcase).items():
        assert press(browser, path, fields | {"csrf": csrf[1]}) == 401
    paths = ("/", "/ui/projects/1", "/ui/models", "/ui/models/tiny-shapes-p1-1", "/ui/static/page.css",
             "/ui/models/tiny-shapes-p1-1/pr.png", "/agreement?project=1")  # fmt: skip
    for path in paths:
        answer = browser.get(path, headers=HTML)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="groundcrew"')
    assert state(showcase) == before
    for path in paths:
        with browser.get(path, headers=HTML | RIGHT) as answer:
            assert answer.status_code == 200


def read_auth() -> dict[str, object]:
    settings = read_settings(BASIC)
    return {"basic_auth_user": settings.basic_auth_user, "basic_auth_pass": settings.basic_auth_pass}


def test_dangerous_buttons_ask_and_only_then_act(browser: FlaskClient, showcase: Showcase) -> None:
    # given
    csrf, before = token(browser), state(showcase)
    asking = {path: fields for path, fields in buttons(showcase).items() if not path.endswith("/replay")}

    # when pressed by a browser without JavaScript / then a page asks, with all fields in its form
    for path, fields in asking.items():
        answer = browser.post(path, data=fields | {"csrf": csrf}, headers=OURS)
        assert "Are you sure?" in answer.text
        assert all(value in answer.text for value in (csrf, *fields.values()))
    assert state(showcase) == before


def test_the_page_runs_no_script_but_its_own(browser: FlaskClient) -> None:
    for path in ("/", "/ui/projects/1", "/ui/models", "/ui/projects/77"):
        answer = browser.get(path, headers=HTML)
        policy = answer.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.text
        assert not re.search(r'\s(on\w+|style)="', answer.text)
        assert "http://" not in re.sub(r'value="[^"]*"|<code>[^<]*</code>', "", answer.text)  # nothing from elsewhere


def test_the_cookie_is_for_this_site_only(browser: FlaskClient) -> None:
    cookie = browser.get("/", headers=HTML).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" in browser.get("/", headers=HTML, base_url="https://localhost").headers["Set-Cookie"]


@pytest.mark.parametrize("back", ["http://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_a_form_leads_back_to_our_own_pages_only(browser: FlaskClient, showcase: Showcase, back: str) -> None:
    (failed,) = showcase.records.recent_failures(1)
    data = {"csrf": token(browser), "back": back}
    answer = browser.post(f"/ui/jobs/{failed['id']}/replay", data=data, headers=OURS)
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize("path", [
    "/ui/models/..%2F..%2Fetc/loss.png", "/ui/models/../loss.png", "/ui/models/tiny-shapes-p1-1/model.safetensors",
    "/ui/models/tiny-shapes-p1-1/..%2Fcard.json", "/ui/models/tiny-shapes-p1-1/card.json", "/ui/models/.hidden/pr.png",
])  # fmt: skip
def test_pictures_are_pictures_and_nothing_else(browser: FlaskClient, path: str) -> None:
    assert browser.get(path, headers=HTML).status_code == 404
    assert b"weights" not in browser.get(path, headers=HTML).data


def test_unknown_things_are_said_in_a_sentence(browser: FlaskClient) -> None:
    project = browser.get("/ui/projects/77", headers=HTML)
    assert (project.status_code, "project 77 has never been seen here" in project.text) == (404, True)
    assert "is not registered" in browser.get("/ui/models/absent-1", headers=HTML).text


def test_agreement_is_there_for_programs_too(browser: FlaskClient, showcase: Showcase) -> None:
    showcase.add_agreement(1)
    newest = browser.get("/agreement?project=1").json["versions"][0]
    assert newest["images"] == 60
    assert 0 < newest["precision"] < 1
    assert set(newest["by_label"]) == {"car", "truck", "traffic_light"}


def test_boxes_that_could_not_be_stored_are_stored_again_without_another_look_at_the_image(
    browser: FlaskClient, settings: Settings, showcase: Showcase
) -> None:
    # given a job whose boxes Label Studio refused
    (job,) = showcase.make_jobs(1, 7, 1)
    write = WriteBackJob(id=job.id, run=job.run, project_id=1, prediction=PREDICTION)
    showcase.records.admit([job])
    showcase.records.dead.bury(write, LabelStudioRefused("the labels do not fit"), attempts=1)
    showcase.records.fail(job.id, job.run, 1, LabelStudioRefused("the labels do not fit"))

    # when
    assert press(browser, f"/ui/jobs/{job.id}/replay", {"csrf": token(browser)}) == 303

    # then it is the write-back that is sent, which looks before it writes, and the letter is gone
    again = WriteBackJob.model_validate(HandWorker(settings).take("write"))
    assert (again.prediction, again.verify) == (PREDICTION, True)
    assert showcase.records.dead.count() == 0
