"""What Label Studio sends, read into small frozen objects. Every 400 about a body is raised here.

Called by: backend.routes. Pure. Must not import: Flask, Celery, redis.
Unknown fields are ignored, and tokens (access_token, project.token) are never read, so nothing can log them.
Example: `read_predict(parse_json(body)).task_ids() -> (1, 2)`
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from backend.annotations import id_or_zero, read_ids, read_submitted
from contract.errors import PayloadError
from contract.jobs import Submitted
from contract.labels import LabelMap

LIMIT_BYTES = 256 * 1024**2  #: of one body; Label Studio's own limit is 250 MB
LIMIT_TASKS = 200_000  #: Label Studio sends a whole selection in one call
LIMIT_ADDRESS_CHARS = 16_384  #: of an image's address; presigned URLs are about 2,000. data: URIs have no such limit
LIMIT_ANNOTATIONS = 200_000  #: in one event
LIMIT_DEPTH = 64  #: of lists and objects in each other; Label Studio's own go about ten deep
LIMIT_DIGITS = 20  #: of a whole number

Json = Mapping[str, object]


@dataclass(frozen=True)
class Task:
    """One Label Studio task."""

    id: int  #: 0 where an interactive call names none
    data: Json
    place: str  #: where it stood in the body, for error messages: ``tasks[3]``


@dataclass(frozen=True)
class TaskImage:
    """One task and the address of its image, or why it has none."""

    task_id: int
    image: str
    problem: PayloadError | None = None


@dataclass(frozen=True)
class Setup:
    """Body of POST /setup."""

    project_id: int
    label_config: str


@dataclass(frozen=True)
class Predict:
    """Body of POST /predict."""

    project_id: int
    label_config: str
    tasks: tuple[Task, ...]
    context: Json | None  #: what the editor sends with an interactive request


@dataclass(frozen=True)
class Event:
    """Body of POST /webhook. Only the first field is always filled; the others as far as the event has them."""

    action: str
    project_id: int = 0
    title: str = ""
    label_config: str = ""
    tasks: tuple[Task, ...] = ()
    annotations: int = 0  #: new or changed ones, without those that skip their task
    submitted: tuple[Submitted, ...] = ()  #: the same annotations, those that skip their task included
    deleted_annotations: tuple[int, ...] = ()  #: their ids


def parse_json(body: bytes) -> Json:
    """The body as a JSON object. Raises PayloadError."""
    try:
        parsed: object = json.loads(body, parse_int=_read_int, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise PayloadError("body", f"is not JSON: {str(error)[:200]}") from None
    _check_depth(body)
    _check_characters(body, parsed)
    return _object(parsed, "body")


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord(bracket): step for bracket, step in zip("[{]}", (1, 1, -1, -1), strict=True)}


def _read_int(digits: str) -> int:
    """Whole numbers beyond 64 bits are no ids, and overflow where they meet a float."""
    if len(digits) > LIMIT_DIGITS:
        raise ValueError(f"a whole number has more than {LIMIT_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _check_depth(body: bytes) -> None:
    """Counted over the brackets outside of strings: 20 ms for the 3 MB of 5,000 tasks."""
    brackets = _STRING.sub(b"", body).translate(None, delete=_NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > LIMIT_DEPTH:
        raise _too_deep()


def _too_deep() -> PayloadError:
    return PayloadError("body", f"is nested too deeply; at most {LIMIT_DEPTH} levels are accepted")


def _check_characters(body: bytes, parsed: object) -> None:
    r"""Half of a surrogate pair, written as \ud83d, is no character: nothing can store it as UTF-8."""
    if b"\\ud" in body or b"\\uD" in body:
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise PayloadError("body", "holds half of a surrogate pair, which is no character") from None


def read_setup(body: Json) -> Setup:
    return Setup(_project_id(body.get("project"), "project"), _text(body, "schema", "schema"))


def read_predict(body: Json) -> Predict:
    params = _object(body.get("params") or {}, "params")
    context = params.get("context")
    tasks = _tasks(body, may_lack_id=context is not None)
    if context is not None and len(tasks) != 1:
        raise PayloadError("tasks", f"has {len(tasks)} entries; an interactive request (params.context) is about one")
    return Predict(
        project_id=_project_id(body.get("project"), "project"),
        label_config=_text(body, "label_config", "label_config"),
        tasks=tasks,
        context=None if context is None else _object(context, "params.context"),
    )


_WITH_TASKS = ("TASKS_CREATED", "TASKS_DELETED")


def read_webhook(body: Json) -> Event:
    """Only the fields that the action needs are checked: an action we do not know may look like anything."""
    action = _text(body, "action", "action")
    project = body.get("project")
    if action == "START_TRAINING":
        return Event(action, project_id=_project_id(_object(project, "project").get("id"), "project.id"))
    if action not in (*_WITH_TASKS, "PROJECT_UPDATED"):
        known = project if isinstance(project, Mapping) else {}
        submitted = body.get("annotation")
        return Event(
            action, project_id=id_or_zero(known.get("id")), annotations=_count_annotations(submitted),
            submitted=read_submitted(submitted), deleted_annotations=read_ids(body.get("annotations")),
        )  # fmt: skip
    project = _object(project, "project")
    title = project.get("title")
    return Event(
        action,
        project_id=_project_id(project.get("id"), "project.id"),
        title=title[:200] if isinstance(title, str) else "",
        label_config="" if action == "TASKS_DELETED" else _text(project, "label_config", "project.label_config"),
        tasks=_tasks(body) if action in _WITH_TASKS else (),
    )


def _count_annotations(found: object) -> int:
    """Label Studio sends one annotation, or a list of them under the same name. A skipped task has `was_cancelled`."""
    annotations = found if isinstance(found, list) else [found]
    if len(annotations) > LIMIT_ANNOTATIONS:
        problem = f"has {len(annotations)} entries; at most {LIMIT_ANNOTATIONS} are accepted in one event"
        raise PayloadError("annotation", problem)
    return sum(isinstance(one, Mapping) and not one.get("was_cancelled") for one in annotations)


def read_images(tasks: Sequence[Task], label_map: LabelMap) -> list[TaskImage]:
    """The image of each task. A task without one is kept, with its problem, so that its neighbours go on.

    Raises:
        PayloadError: no task has one.
    """
    images = [_read_image(task, label_map.image_key) for task in tasks]
    if all(image.problem for image in images) and images[0].problem:
        raise images[0].problem
    return images


def _read_image(task: Task, key: str) -> TaskImage:
    field = f"{task.place}.data.{key}"
    value = _look_up(task.data, key)
    if value is None:
        problem = f'is missing; the label config takes the image from it (value="${key}")'
    elif not isinstance(value, str):
        problem = f"is {_kind(value)}; it must be the address of one image"
    elif not value.strip():
        problem = "is empty; it must be the address of an image"
    elif len(value) > LIMIT_ADDRESS_CHARS and not value.startswith("data:"):
        problem = f"has {len(value)} characters; an address has at most {LIMIT_ADDRESS_CHARS}"
    else:
        return TaskImage(task.id, value.strip())
    return TaskImage(task.id, "", PayloadError(field, problem))


def _look_up(data: Json, key: str) -> object:
    """``image`` or, as Label Studio allows, ``photo.url`` for a nested field."""
    if key in data:
        return data[key]
    found: object = data
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _tasks(body: Json, *, may_lack_id: bool = False) -> tuple[Task, ...]:
    tasks = body.get("tasks")
    if tasks is None:
        raise PayloadError("tasks", "is missing; send a list of Label Studio tasks")
    if not isinstance(tasks, list):
        raise PayloadError("tasks", f"is {_kind(tasks)}; it must be a list of Label Studio tasks")
    if not tasks:
        raise PayloadError("tasks", "is empty; send at least one Label Studio task")
    if len(tasks) > LIMIT_TASKS:
        raise PayloadError("tasks", f"has {len(tasks)} entries; at most {LIMIT_TASKS} are accepted in one call")
    return tuple(_read_task(task, f"tasks[{index}]", may_lack_id) for index, task in enumerate(tasks))


def _read_task(task: object, place: str, may_lack_id: bool) -> Task:
    fields = _object(task, place)
    task_id = fields.get("id")
    if not (task_id is None and may_lack_id):
        task_id = _identifier(task_id, f"{place}.id")
    return Task(id_or_zero(task_id), _object(fields.get("data") or {}, f"{place}.data"), place)


def _project_id(value: object, field: str) -> int:
    """``"1.1795562812"`` (id and creation time) -> 1; a bare id does, too."""
    if isinstance(value, str):
        head = value.partition(".")[0]
        value = int(head) if head.isascii() and head.isdigit() and len(head) < 20 else value
    return _identifier(value, field)


def _identifier(value: object, field: str) -> int:
    if value is None:
        raise PayloadError(field, "is missing; send the id that Label Studio gave it")
    found = id_or_zero(value)
    if not found:
        raise PayloadError(field, f"is {_kind(value)}; it must be an id, a whole number from 1 up")
    return found


def _text(fields: Json, name: str, field: str) -> str:
    value = fields.get(name)
    if value is None:
        raise PayloadError(field, "is missing; send a text")
    if not isinstance(value, str):
        raise PayloadError(field, f"is {_kind(value)}; it must be a text")
    if not value.strip():
        raise PayloadError(field, "is empty; send a text")
    return value


def _object(value: object, field: str) -> Json:
    if value is None:
        raise PayloadError(field, "is missing; send a JSON object")
    if not isinstance(value, dict):
        raise PayloadError(field, f"is {_kind(value)}; it must be a JSON object")
    return value


def _kind(value: object) -> str:
    """``a list`` and the like: the kind, not the value, which may be private or long."""
    return _KINDS.get(type(value).__name__, "null")


_KINDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", "list": "a list",
    "dict": "an object",
}  # fmt: skip
