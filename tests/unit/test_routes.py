"""The API without any service: what it answers while Redis is away, to bad input, and to callers without credentials.

Run by: pytest. Must not import: worker.
Example: pytest tests/unit/test_routes.py
"""

from __future__ import annotations

import base64
import hmac
import logging
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from backend.payloads import LIMIT_BYTES
from contract.errors import SettingsError
from contract.settings import read_settings
from tests.fakes.recorded import recorded

NOWHERE = "redis://127.0.0.1:1/0"  #: nothing listens there
SETUP = recorded("setup").body
BASIC = {"BASIC_AUTH_USER": "crew", "BASIC_AUTH_PASS": "s3cret-pass"}
SECRET = {"WEBHOOK_SECRET": "hook-secret"}


def api(**settings: str) -> FlaskClient:
    """The API of a made-up model, with no Redis."""
    model = {"CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth"}
    return create_app(read_settings({"REDIS_URL": NOWHERE} | model | settings)).test_client()


def credentials(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_health_is_up_and_says_that_redis_is_not() -> None:
    # given no Redis / when
    answer = api().get("/health")

    # then
    assert (answer.status_code, answer.json["status"]) == (200, "UP")
    assert answer.json["redis"].startswith("down")
    assert answer.json["write_back"] is False


def test_setup_answers_without_redis_and_its_version_follows_the_labels() -> None:
    # given / when
    client = api()
    first = client.post("/setup", json=SETUP).json["model_version"]
    recoloured = SETUP | {"schema": SETUP["schema"].replace("red", "pink")}
    relabelled = SETUP | {"schema": SETUP["schema"].replace('"car"', '"bus"')}

    # then
    assert first.startswith("demo-0123abcd.")
    assert client.post("/setup", json=recoloured).json == {"model_version": first}
    assert client.post("/setup", json=relabelled).json["model_version"] != first


def test_thresholds_of_the_settings_are_part_of_the_version() -> None:
    versions = {api(**more).post("/setup", json=SETUP).json["model_version"] for more in (
        {}, {"SCORE_THRESHOLD": "0.4"}, {"NMS_IOU": "0.5"})}  # fmt: skip
    assert len(versions) == 3


def test_the_prompt_map_file_is_read_once_and_a_bad_one_stops_the_start(tmp_path: Path) -> None:
    # given a map, and a label that it knows
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("车 = car\n", encoding="utf-8")
    bad.write_text("nonsense\n", encoding="utf-8")
    chinese = SETUP | {"schema": SETUP["schema"].replace('value="car"', 'value="车"')}

    # when
    plain = api().post("/setup", json=chinese).json["model_version"]
    mapped = api(PROMPT_MAP_FILE=str(good)).post("/setup", json=chinese).json["model_version"]

    # then
    assert mapped != plain
    with pytest.raises(SettingsError, match="prompt map, line 1"):
        api(PROMPT_MAP_FILE=str(bad))
    with pytest.raises(SettingsError, match=r"PROMPT_MAP_FILE: .* cannot be read"):
        api(PROMPT_MAP_FILE=str(tmp_path / "absent.txt"))


def test_advice_on_prompts_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    # given labels of which one is part of another / when the project is set up twice
    client = api()
    body = SETUP | {"schema": SETUP["schema"].replace('value="person"', 'value="light"')}
    with caplog.at_level(logging.WARNING, logger="backend.models"):
        client.post("/setup", json=body)
        client.post("/setup", json=body)

    # then
    (advice,) = [record.getMessage() for record in caplog.records if record.name == "backend.models"]
    assert '\'light\' asks for "light", which is part of "traffic light"' in advice


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("/setup", b"{", "bad_payload", "body"),
        ("/setup", b'{"project": 1, "schema": "<View>"}', "bad_label_config", "label_config"),
        ("/setup", b'{"project": 1, "schema": "<View/>"}', "bad_label_config", "label_config"),
        ("/predict", b"", "bad_payload", "body"),
        ("/predict", b'{"tasks": []}', "bad_payload", "tasks"),
        ("/webhook", b"{}", "bad_payload", "action"),
    ],
)
def test_bad_input_is_a_400_with_code_field_and_sentence(path: str, body: bytes, code: str, field: str) -> None:
    # given / when
    answer = api().post(path, data=body)

    # then
    assert answer.status_code == 400
    assert (answer.json["code"], answer.json["field"]) == (code, field)
    assert answer.json["message"].startswith(field)
    assert answer.json["id"] == answer.headers["X-Request-ID"]


def test_too_long_a_prompt_is_a_400() -> None:
    # given
    body = recorded("predict-interactive").body
    body["params"]["context"]["result"][0]["value"]["text"] = ["x" * 5000]

    # when
    answer = api().post("/predict", json=body)

    # then
    assert (answer.status_code, answer.json["code"], answer.json["field"]) == (400, "bad_prompt", "prompt")


@pytest.mark.parametrize(
    "name", ["predict-batch", "predict-single-task-open", "predict-interactive", "webhook-tasks-created"]
)
def test_work_is_refused_with_503_while_redis_is_away(name: str) -> None:
    # given a token, so that there is something to send
    client = api(LABEL_STUDIO_URL="http://studio", LABEL_STUDIO_API_KEY="token")

    # when
    answer = client.post(recorded(name).path, json=recorded(name).body)

    # then
    assert (answer.status_code, answer.json["code"]) == (503, "broker_unavailable")
    assert "REDIS_URL" in answer.json["message"]
    assert answer.headers["Retry-After"] == "5"


def test_metrics_and_the_page_work_without_redis() -> None:
    # given / when
    metrics, page = api().get("/metrics"), api().get("/", headers={"Accept": "text/html"})

    # then
    assert "groundcrew_redis_up 0.0" in metrics.text
    assert metrics.content_type.startswith("text/plain")
    assert "Redis does not answer" in page.text


def test_programs_get_json_where_browsers_get_a_page() -> None:
    # Label Studio and curl send */*
    assert api().get("/", headers={"Accept": "*/*"}).json["status"] == "UP"
    assert api().get("/").json["model_class"] == "Groundcrew"
    assert api().get("/", headers={"Accept": "text/html,*/*;q=0.8"}).content_type.startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("GET", "/jobs?project=one", 400, "bad_payload"),
        ("GET", "/jobs?project=²", 400, "bad_payload"),
    ],
)
def test_other_errors_are_json_too(method: str, path: str, status: int, code: str) -> None:
    answer = api().open(path, method=method)
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read() -> None:
    # given a request that announces more than the limit / when
    answer = api().post("/predict", data=b"{}", environ_overrides={"CONTENT_LENGTH": str(LIMIT_BYTES + 1)})

    # then
    assert (answer.status_code, answer.json["code"]) == (413, "request_entity_too_large")


def test_a_request_id_is_kept_if_it_is_harmless() -> None:
    client = api()
    assert client.get("/health", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    assert len(client.get("/health", headers={"X-Request-ID": "<x>" * 9}).headers["X-Request-ID"]) == 16


# -- who may call ------------------------------------------------------------------------------------------------------

EVENT = {"action": "X"}
RIGHT, WRONG = credentials("crew", "s3cret-pass"), credentials("crew", "guess")
HEADER, WRONG_HEADER = {"X-Groundcrew-Secret": "hook-secret"}, {"X-Groundcrew-Secret": "guess"}
BOTH = BASIC | SECRET
TOKEN = {"API_TOKEN": "t0ken"}


@pytest.mark.parametrize(
    ("settings", "method", "path", "headers", "status"),
    [
        (BASIC, "GET", "/health", {}, 200),
        (BASIC, "GET", "/", {}, 401),
        (BASIC, "GET", "/metrics", WRONG, 401),
        (BASIC, "GET", "/metrics", credentials("crew", ""), 401),
        (BASIC, "GET", "/metrics", {"Authorization": "Bearer s3cret-pass"}, 401),
        (BASIC, "GET", "/metrics", RIGHT, 200),
        (BASIC, "GET", "/nothing", {}, 401),
        (BASIC, "POST", "/setup", {}, 401),
        (BASIC, "POST", "/webhook", {}, 401),
        (BASIC, "POST", "/webhook/", {}, 401),
        (BASIC, "POST", "/s//webhook", {}, 401),
        (BASIC, "POST", "/webhook", {"X-Groundcrew-Secret": ""}, 401),
        (BASIC, "POST", "/webhook", RIGHT, 200),
        (TOKEN, "GET", "/health", {}, 200),
        (TOKEN, "GET", "/metrics", {}, 401),
        (TOKEN, "GET", "/metrics", {"Authorization": "Bearer t0ken"}, 200),
        (TOKEN, "GET", "/metrics", {"Authorization": "Bearer guess"}, 401),
        (TOKEN, "GET", "/metrics", {"Authorization": "Bearer"}, 401),
        (TOKEN, "GET", "/metrics", {"Authorization": "Token t0ken"}, 401),
        (TOKEN, "GET", "/metrics", credentials("t0ken", "t0ken"), 401),
        (TOKEN, "POST", "/webhook", {}, 401),
        (TOKEN, "POST", "/webhook", {"Authorization": "Bearer t0ken"}, 200),
        (BASIC, "GET", "/metrics", {"Authorization": "Bearer "}, 401),
        (SECRET, "GET", "/metrics", {}, 200),
        (SECRET, "POST", "/webhook", {}, 401),
        (SECRET, "POST", "/webhook/", {}, 401),
        (SECRET, "POST", "/webhook", HEADER, 200),
        (SECRET, "POST", "/webhook", WRONG_HEADER, 401),
        (SECRET, "POST", "/webhook/hook-secret", {}, 200),
        (SECRET, "POST", "/webhook/guess", {}, 401),
        (BOTH, "POST", "/webhook", {}, 401),
        (BOTH, "POST", "/webhook", RIGHT, 200),
        (BOTH, "POST", "/webhook", HEADER, 200),
        (BOTH, "POST", "/webhook/hook-secret", {}, 200),
        (BOTH, "POST", "/predict", HEADER, 401),
        (BOTH, "GET", "/s/hook-secret/health", {}, 200),
        (BOTH, "POST", "/s/hook-secret/webhook", {}, 200),
        (BOTH, "POST", "/s/guess/webhook", {}, 401),
        (BOTH, "POST", "/s/hook-secretx/webhook", {}, 401),
        (BOTH, "POST", "/s/caf\u00e9/webhook", {}, 401),
        (BOTH, "POST", "/s/hook-secret", {}, 401),
        (BOTH, "GET", "/s/hook-secret/metrics", {}, 401),
        (BOTH, "GET", "/s/hook-secret/metrics", RIGHT, 200),
        ({}, "POST", "/webhook", {}, 200),
        ({}, "POST", "/webhook/anything", {}, 200),
    ],
)
def test_credentials(settings: dict[str, str], method: str, path: str, headers: dict[str, str], status: int) -> None:
    # given Basic auth, a webhook secret, both or neither / when
    answer = api(**settings).open(path, method=method, headers=headers, json=EVENT if method == "POST" else None)

    # then
    assert answer.status_code == status
    if status == 401:
        assert answer.json["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("path", "headers", "compared"),
    [
        ("/metrics", credentials("stranger", "guess"), {("stranger", "crew"), ("guess", "s3cret-pass")}),
        ("/metrics", {"Authorization": "Bearer guess"}, {("guess", "t0ken")}),
        ("/webhook", WRONG_HEADER, {("guess", "hook-secret")}),
        ("/webhook/guess", {}, {("guess", "hook-secret")}),
        ("/s/guess/webhook", {}, {("guess", "hook-secret")}),
    ],
)
def test_every_credential_is_compared_in_constant_time(
    path: str, headers: dict[str, str], compared: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the standard library's comparison that takes as long for a good guess as for a bad one, watched
    seen: set[tuple[str, str]] = set()
    compare = hmac.compare_digest
    watch = lambda given, wanted: seen.add((given.decode(), wanted.decode())) or compare(given, wanted)  # noqa: E731
    monkeypatch.setattr(hmac, "compare_digest", watch)

    # when / then a wrong user name does not spare the comparison of the password either
    assert api(**BOTH, **TOKEN).post(path, headers=headers, json=EVENT).status_code == 401
    assert compared <= seen


def test_no_route_but_health_answers_without_credentials() -> None:
    # given every route there is, whoever added it
    client = api(**BOTH)
    rules = [(rule, method) for rule in client.application.url_map.iter_rules()
             for method in rule.methods - {"HEAD", "OPTIONS"}]  # fmt: skip
    assert len(rules) > 10

    # when each is called without credentials
    answers = {}
    for rule, method in rules:
        path = re.sub("<[^>]*>", "1", rule.rule)
        answers[f"{method} {rule.rule}"] = client.open(path, method=method).status_code
        answers[f"OPTIONS {rule.rule}"] = client.open(path, method="OPTIONS").status_code

    # then
    assert {name for name, status in answers.items() if status != 401} == {"GET /health", "OPTIONS /health"}


def test_the_url_to_paste_lets_label_studios_own_webhook_in() -> None:
    # given Basic auth and a secret, and a Label Studio that was given http://host/s/hook-secret as Backend URL
    client, base = api(**BOTH), "/s/hook-secret"

    # when it calls as it does: Basic auth with /setup, none with /health and the webhook
    statuses = [
        client.get(f"{base}/health").status_code,
        client.post(f"{base}/setup", json=SETUP, headers=RIGHT).status_code,
        client.post(f"{base}/webhook", json=EVENT).status_code,
        client.post(f"{base}/setup", json=SETUP).status_code,
    ]

    # then the secret in the path opens the webhook, and nothing else
    assert statuses == [200, 200, 200, 401]


def test_someone_without_a_webhook_secret_is_told_what_will_not_work(caplog: pytest.LogCaptureFixture) -> None:
    api(**BASIC)
    assert "WEBHOOK_SECRET" in caplog.text
    caplog.clear()
    api(**BOTH)
    assert "WEBHOOK_SECRET" not in caplog.text


def test_neither_logs_nor_answers_show_a_token_or_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    # given requests that carry tokens in every place where Label Studio puts one
    client = api(**BOTH)
    setup = SETUP | {"access_token": "tok-setup"}
    event = {"action": "PROJECT_UPDATED", "project": {"id": 1, "token": "tok-project", "label_config": "<broken"}}

    # when some of them fail
    with caplog.at_level(logging.DEBUG):
        answers = [
            client.post("/setup", json=setup, headers=RIGHT),
            client.post("/setup", json=setup | {"schema": "<broken"}, headers=RIGHT),
            client.post("/webhook/hook-secret", json=event),
            client.post("/webhook/hook-guess", json=event),
        ]

    # then
    assert [answer.status_code for answer in answers] == [200, 400, 400, 401]
    seen = caplog.text + "".join(answer.text for answer in answers)
    for secret in ("tok-setup", "tok-project", "hook-secret", "hook-guess", "s3cret-pass"):
        assert secret not in seen


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/jobs/p1-t1-0/cancel", "/ui/projects/1/rollback"])
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                {"Sec-Fetch-Site": "same-site"}],
)  # fmt: skip
def test_no_other_site_makes_a_browser_post_to_us(path: str, headers: dict[str, str]) -> None:
    # given a browser that would send its stored credentials along / when / then
    answer = api(**BASIC).post(path, json=SETUP, headers=headers | RIGHT)
    assert (answer.status_code, answer.json["code"]) == (403, "forged_request")


def test_programs_and_our_own_pages_may_post() -> None:
    for headers in (
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Origin": "http://localhost"},
    ):
        assert api().post("/setup", json=SETUP, headers=headers).status_code == 200
