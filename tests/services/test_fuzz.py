"""Ten thousand requests that nobody would make on purpose: every answer is below 500, quick, and gives nothing away.

Run by: pytest. What a schema allows (schemathesis), and recorded messages of Label Studio with parts exchanged.
Must not import: worker, torch.
Example: pytest tests/services/test_fuzz.py
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from werkzeug.test import TestResponse

from backend.app import create_app
from contract.broker import connect_redis
from contract.settings import read_settings
from tests.fakes.recorded import NAMES, recorded

REQUESTS = 10_000
MUTATED = 7_000
LIMIT_S = 2.0  #: of processor time, which a busy machine does not stretch
HANGS_S = 30.0
SCHEMA = yaml.safe_load((Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
MARK = "s3cret-in-the-body"
LEAKS = (MARK, "Traceback", 'File "/', "site-packages")
#: Without a worker someone who typed a prompt waits in vain, and is told so.
EXPECTED = {(504, "prediction_late")}
FUZZ = {"deadline": None, "database": None, "derandomize": True, "phases": (Phase.generate, Phase.shrink),
        "suppress_health_check": list(HealthCheck)}  # fmt: skip


class Fuzzed:
    """The API under fire, and how often it was hit."""

    def __init__(self, app: Flask) -> None:
        self.app, self._client, self.requests = app, app.test_client(), 0

    def hit(self, method: str, path: str, **request: Any) -> TestResponse:
        began_s, cpu_s = time.monotonic(), time.thread_time()
        answer = self._client.open(path, method=method, **request)
        took_s, cpu_s = time.monotonic() - began_s, time.thread_time() - cpu_s
        self.requests += 1
        assert answer.status_code < 500 or (answer.status_code, answer.json["code"]) in EXPECTED, answer.text
        assert cpu_s < LIMIT_S, f"{method} {path} took {cpu_s:.1f} s of processor time"
        assert took_s < HANGS_S, f"{method} {path} took {took_s:.1f} s"
        assert not [leak for leak in LEAKS if leak in answer.text], answer.text
        if answer.status_code >= 400:
            assert answer.json["id"] == answer.headers["X-Request-ID"]
            assert answer.json["code"]
        return answer


@pytest.fixture(scope="module")
def fuzzed(redis_url: str) -> Iterator[Fuzzed]:
    url = redis_url.removesuffix("/0") + "/9"
    made = read_settings({
        "REDIS_URL": url, "CONFIG_FILE": "grounding_dino_demo.py", "CHECKPOINT_FILE": "demo-0123abcd.pth",
        "LABEL_STUDIO_URL": "http://studio", "LABEL_STUDIO_API_KEY": "token",
        "PREDICT_WAIT_S": "0", "SYNC_WAIT_S": "0", "QUEUE_LIMIT": "100000000", "FINETUNE_AFTER": "1",
    })  # fmt: skip
    with connect_redis(made) as client:
        client.flushdb()
        yield Fuzzed(create_app(made.model_copy(update={"max_waiting_per_project": 10**8})))
        client.flushdb()


def test_every_route_for_programs_is_described(fuzzed: Fuzzed) -> None:
    rules = [rule for rule in fuzzed.app.url_map.iter_rules() if not rule.rule.startswith("/ui/") and rule.rule != "/"]
    routes = {(re.sub("<([^>]*)>", r"{\1}", rule.rule), method.lower())
              for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}}  # fmt: skip
    described = {(path, method) for path, item in SCHEMA["paths"].items() for method in item}
    assert routes == {(path, method) for path, method in described if method != "parameters"}


# -- what the description allows, and what it forbids ------------------------------------------------------------------

OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(SCHEMA).get_all_operations()]
EACH = -(-(REQUESTS - MUTATED) // len(OPERATIONS) // 2)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_requests_made_from_the_description(operation: Any, mode: GenerationMode, fuzzed: Fuzzed) -> None:
    if mode is GenerationMode.NEGATIVE and operation.label in ("GET /health", "GET /versions", "GET /metrics",
                                                               "GET /metrics/outstanding"):  # fmt: skip
        mode = GenerationMode.POSITIVE  # nothing in them can be wrong

    @settings(max_examples=EACH, **FUZZ)
    @given(case=operation.as_strategy(generation_mode=mode))
    def shoot(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://localhost")
        operation.validate_response(fuzzed.hit(**to_werkzeug(request)), case=case)

    shoot()


def to_werkzeug(request: dict[str, Any]) -> dict[str, Any]:
    path = request["url"].removeprefix("http://localhost")
    kept = {"method": request["method"], "path": path or "/", "query_string": request.get("params") or {}}
    headers = {str(name): str(value) for name, value in (request.get("headers") or {}).items() if value is not None}
    body = request.get("data")
    if "json" in request:
        body = json.dumps(request["json"])
    if isinstance(body, dict):
        body = json.dumps(body, default=str)
    return {**kept, "headers": headers, "data": body}


# -- recorded messages with parts exchanged ---------------------------------------------------------------------------

RECORDED = [recorded(name) for name in NAMES if name != "predict-batch-259"]
MESSAGES = [(found.path, found.body) for found in RECORDED if found.body]
HOSTILE = st.sampled_from([
    None, True, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", " ", "\0", "\ud83d", "1", "1.5", "1.1795562812", "²", "٣", "x" * 20_000,
    "../../etc/passwd", "file:///etc/passwd",
    "http://169.254.169.254/", "data:image/png;base64,@@@", "s3://b/k", "<View/>", "{{7*7}}", "%s%n", "'; DROP TABLE",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "\r\nSet-Cookie: a=b", "\u202e", "red. circle", ", , ,", "。", MARK,
    [], {}, [[]], [None], [{}], {"": {}}, [1] * 50,
])  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
LISTS = st.lists(LEAVES, max_size=3)
VALUES = HOSTILE | LEAVES | LISTS | st.dictionaries(st.text(max_size=8), LEAVES | LISTS, max_size=3)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """A recorded message in which one to four places were replaced, removed, doubled or moved elsewhere."""
    path, body = draw(st.sampled_from(MESSAGES))
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 4))):
        places = list(find_places(body))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "move"]))
        if change == "remove":
            del holder[key]
        elif change == "double":
            holder[key] = [holder[key], copy.deepcopy(holder[key])]
        elif change == "move":
            other, name = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else other[name])
        else:
            holder[key] = draw(VALUES)
    return path, json.dumps(body).encode()


def find_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a message; of long lists the first few."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value[:3]))
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from find_places(inner)


def test_recorded_messages_with_parts_exchanged(fuzzed: Fuzzed) -> None:
    @settings(max_examples=MUTATED, **FUZZ)
    @given(message=mutations())
    def shoot(message: tuple[str, bytes]) -> None:
        path, body = message
        fuzzed.hit("POST", path, data=body)

    shoot()


KINDS = ["", "text/xml", "application/json", "multipart/form-data"]


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/webhook/x", "/jobs/x/cancel"])
def test_bodies_that_are_no_json(path: str, fuzzed: Fuzzed) -> None:
    @settings(max_examples=100, **FUZZ)
    @given(body=st.binary(max_size=200), kind=st.sampled_from(KINDS))
    def shoot(body: bytes, kind: str) -> None:
        fuzzed.hit("POST", path, data=body, content_type=kind)

    shoot()


def test_it_was_enough(fuzzed: Fuzzed) -> None:
    """Runs last; alone it says how many of the others are needed."""
    assert fuzzed.requests >= REQUESTS
