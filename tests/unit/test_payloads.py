"""Bodies from Label Studio: every recorded one is read, every bad one is refused in a sentence that names the field.

Run by: pytest. Must not import: flask, worker.
Example: pytest tests/unit/test_payloads.py
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.payloads import (
    LIMIT_TASKS,
    Json,
    Task,
    parse_json,
    read_images,
    read_predict,
    read_setup,
    read_webhook,
)
from contract.errors import PayloadError
from contract.labels import read_label_config
from tests.fakes.recorded import NAMES, recorded

MAP = read_label_config(recorded("setup").body["schema"])
NESTED = read_label_config(recorded("setup").body["schema"].replace("$image", "$photo.url"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_body_is_read(name: str) -> None:
    # given a request that Label Studio made
    call = recorded(name)

    # when / then
    if call.path == "/setup":
        assert read_setup(call.body).project_id == 1
    elif call.path == "/predict":
        read = read_predict(call.body)
        assert [image.problem for image in read_images(read.tasks, MAP)] == [None] * len(read.tasks)
    elif call.path == "/webhook":
        assert read_webhook(call.body).project_id == 1
    else:
        assert call.body is None


def test_a_recorded_selection_of_259_tasks_keeps_its_order() -> None:
    # given / when
    read = read_predict(recorded("predict-batch-259").body)

    # then
    assert (read.project_id, [task.id for task in read.tasks]) == (1, list(range(1, 260)))
    assert read.context is None
    assert read_images(read.tasks, MAP)[258].image == "/data/upload/1/00000259-img.png"


def test_a_recorded_interactive_request_has_its_context() -> None:
    # given / when
    read = read_predict(recorded("predict-interactive").body)

    # then
    assert read.context is not None
    assert "红绿灯 and car" in json.dumps(read.context, ensure_ascii=False)


def test_webhooks_say_what_happened_to_which_tasks() -> None:
    # given / when
    created = read_webhook(recorded("webhook-tasks-created").body)
    deleted = read_webhook(recorded("webhook-tasks-deleted").body)
    updated = read_webhook(recorded("webhook-project-updated").body)

    # then
    assert (created.action, created.title, [task.id for task in created.tasks]) == ("TASKS_CREATED", "proto", [1])
    assert "RectangleLabels" in created.label_config
    assert (len(deleted.tasks), deleted.label_config) == (250, "")
    assert "RectangleLabels" in updated.label_config


@pytest.mark.parametrize("project", [1, "1", "1.1795562812"])
def test_a_project_is_its_number_or_number_and_creation_time(project: object) -> None:
    assert read_setup({"project": project, "schema": "<View/>"}).project_id == 1


def test_an_unknown_event_may_look_like_anything() -> None:
    assert read_webhook({"action": "PROJECT_PUBLISHED", "project": ["?"]}).action == "PROJECT_PUBLISHED"
    assert read_webhook({"action": "X", "project": {"id": 7}}).project_id == 7


def predict_body(**changes: object) -> dict[str, Any]:
    return {"tasks": [{"id": 1, "data": {"image": "a.png"}}], "project": "1.2", "label_config": "<View/>"} | changes


def one_task(**changes: object) -> dict[str, Any]:
    return predict_body(tasks=[{"id": 1, "data": {}}, {"id": 2, "data": {}} | changes])


BAD_PREDICT = [
    (predict_body(tasks=None), "tasks is missing; send a list of Label Studio tasks"),
    (predict_body(tasks=[]), "tasks is empty; send at least one"),
    (predict_body(tasks={"id": 1}), "tasks is an object; it must be a list"),
    (predict_body(tasks=[1]), "tasks[0] is a whole number; it must be a JSON object"),
    (predict_body(tasks=[None]), "tasks[0] is missing"),
    (predict_body(tasks=[1] * (LIMIT_TASKS + 1)), "at most 200000 are accepted"),
    (one_task(id=None), "tasks[1].id is missing"),
    (one_task(id="2"), "tasks[1].id is a text; it must be an id"),
    (one_task(id=True), "tasks[1].id is true or false"),
    (one_task(id=0), "tasks[1].id is a whole number; it must be an id, a whole number from 1 up"),
    (one_task(id=2**63), "tasks[1].id is a whole number"),
    (one_task(data="a.png"), "tasks[1].data is a text"),
    (predict_body(project=None), "project is missing"),
    (predict_body(project="one.2"), "project is a text; it must be an id"),
    (predict_body(project="9" * 30), "project is a text; it must be an id"),
    (predict_body(project=1.5), "project is a number; it must be an id"),
    (predict_body(label_config=None), "label_config is missing"),
    (predict_body(label_config=" "), "label_config is empty"),
    (predict_body(label_config=["<View/>"]), "label_config is a list; it must be a text"),
    (predict_body(params=[1]), "params is a list"),
    (predict_body(params={"context": "x"}), "params.context is a text"),
    (one_task() | {"params": {"context": {}}}, "tasks has 2 entries; an interactive request"),
]


@pytest.mark.parametrize(("body", "sentence"), BAD_PREDICT, ids=[sentence for _, sentence in BAD_PREDICT])
def test_a_bad_predict_body_is_refused_by_the_name_of_its_field(body: Json, sentence: str) -> None:
    # given a body with one thing wrong / when
    with pytest.raises(PayloadError) as caught:
        read_predict(body)

    # then
    assert caught.value.message.startswith(sentence) or sentence in caught.value.message
    assert caught.value.message.startswith(caught.value.field)


@pytest.mark.parametrize(
    ("read", "body", "sentence"),
    [
        (read_setup, {"schema": "<View/>"}, "project is missing"),
        (read_setup, {"project": 1}, "schema is missing"),
        (read_webhook, {}, "action is missing"),
        (read_webhook, {"action": 1}, "action is a whole number"),
        (read_webhook, {"action": "TASKS_CREATED", "tasks": [{"id": 1}]}, "project is missing"),
        (read_webhook, {"action": "TASKS_DELETED", "project": {"id": 1}}, "tasks is missing"),
        (read_webhook, {"action": "PROJECT_UPDATED", "project": {"id": 1}}, "project.label_config is missing"),
        (read_webhook, {"action": "PROJECT_UPDATED", "project": {"id": None}}, "project.id is missing"),
    ],
)
def test_other_bad_bodies_are_refused_too(read: Callable[[Json], object], body: Json, sentence: str) -> None:
    with pytest.raises(PayloadError, match=sentence):
        read(body)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "body is not JSON"),
        (b"{", "body is not JSON"),
        (b"\xff", "body is not JSON"),
        (b"[]", "body is a list; it must be a JSON object"),
        (b"null", "body is missing"),
        (b'{"a":' + b"[" * 100_000, "body is nested too deeply"),
        (b'{"id":' + b"9" * 5000 + b"}", "body is not JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(PayloadError, match=sentence):
        parse_json(body)


def tasks(*data: dict[str, object]) -> list[Task]:
    return [Task(index + 1, fields, f"tasks[{index}]") for index, fields in enumerate(data)]


def test_a_task_without_image_keeps_its_problem_and_its_neighbours_go_on() -> None:
    # given four tasks, the last without an image
    good = {"image": "a.png"}

    # when
    images = read_images(tasks(good, good, {"image": " b.png "}, {"text": "x"}), MAP)

    # then
    assert [image.image for image in images] == ["a.png", "a.png", "b.png", ""]
    problem = images[3].problem
    assert problem is not None
    assert problem.message == (
        'tasks[3].data.image is missing; the label config takes the image from it (value="$image")'
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "is missing"),
        ("  ", "is empty"),
        (["a.png", "b.png"], "is a list; it must be the address of one image"),
        (7, "is a whole number"),
        ("http://h/" + "x" * 20_000, "has 20009 characters"),
    ],
)
def test_when_no_task_has_an_image_the_request_is_refused(value: object, sentence: str) -> None:
    with pytest.raises(PayloadError, match=rf"tasks\[0\]\.data\.image {sentence}"):
        read_images(tasks({"image": value}, {}), MAP)


def test_a_long_data_uri_and_nested_fields_are_fine() -> None:
    # given
    long = "data:image/png;base64," + "A" * 100_000

    # when / then
    assert read_images(tasks({"image": long}), MAP)[0].image == long
    assert read_images(tasks({"photo": {"url": "a.png"}}), NESTED)[0].image == "a.png"
    assert read_images(tasks({"photo.url": "b.png"}), NESTED)[0].image == "b.png"


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
fields = st.sampled_from(["tasks", "project", "label_config", "schema", "params", "context", "id", "data", "image"])
anything = st.recursive(leaves, lambda more: st.lists(more, max_size=3) | st.dictionaries(fields, more), max_leaves=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(fields, anything, max_size=6), st.sampled_from(["TASKS_CREATED", "PROJECT_UPDATED", "X"]))
def test_no_body_causes_anything_but_a_payload_error(body: dict[str, Any], action: str) -> None:
    # given any JSON / when it is read as each kind of request
    for read in (read_setup, read_predict, lambda it: read_webhook(it | {"action": action})):
        # then
        with contextlib.suppress(PayloadError):
            read(body)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested too deeply; at most 64"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (rb'{"a": "\ud83d"}', "half of a surrogate pair"),
        (rb'{"\uDC00": 1}', "half of a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_bodies_that_would_hurt_later_are_refused_at_once(body: bytes, problem: str) -> None:
    with pytest.raises(PayloadError, match=problem):
        parse_json(body)


def test_brackets_within_texts_are_no_depth() -> None:
    body = json.dumps({"a": "[{" * 100 + '\\" [[' * 100, "😀": ["\ud83d\ude00"]})
    assert parse_json(body.encode())["a"].startswith("[{")


def test_too_many_annotations_in_one_event_are_refused() -> None:
    with pytest.raises(PayloadError, match="annotation has 200001 entries"):
        read_webhook({"action": "ANNOTATIONS_CREATED", "project": {"id": 1}, "annotation": [0] * 200_001})
