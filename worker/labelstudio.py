"""Label Studio's REST API as the workers need it: predictions, snapshots of annotations, a fresh Authorization header.

Called by: worker.writer, worker.snapshot, worker.app. Must not import: torch, Celery.
The SDK tells personal access tokens from legacy ones and refreshes access tokens (they live 300 s) by itself.
Example: `LabelStudio(url, key).store(project_id=1, predictions=[prediction])`
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import httpx

from contract.errors import LabelStudioError, LabelStudioRefused, LabelStudioUnreachable, TokenMissing
from contract.jobs import NewTask, Prediction
from contract.settings import Settings
from worker.compare import StoredPrediction
from worker.connections import limit_look_ups

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio as Sdk

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 60.0
TASKS_A_PAGE = 500
T = TypeVar("T")

_REMEDIES = {
    400: "the request does not fit the project",
    401: "the token is not accepted: create a new personal access token and set LABEL_STUDIO_API_KEY",
    403: "the token's user may not do this: invite the user to the project, or use another token",
    404: "it does not exist (any more)",
}


class Snapshot(NamedTuple):
    """An export of a project's annotations that Label Studio makes, or has made, and keeps as a file."""

    id: int
    title: str
    status: str  #: created, in_progress, failed or completed
    tasks: int  #: in it; 0 until it is completed
    created_at: datetime


class LabelStudio:
    """A connection to one Label Studio. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = limit_look_ups(httpx.Client(timeout=REQUEST_TIMEOUT_S, follow_redirects=True))

    def close(self) -> None:
        """Close its connections; those that live as long as their process need not."""
        self._http.close()

    @cached_property
    def _sdk(self) -> Sdk:
        if not self._settings.can_write_back:
            raise TokenMissing
        from label_studio_sdk import LabelStudio as Sdk  # takes a second to import: only where it is used

        key = self._settings.label_studio_api_key.get_secret_value()
        url = self._settings.label_studio_url
        return Sdk(base_url=url, api_key=key, timeout=REQUEST_TIMEOUT_S, httpx_client=self._http)

    def prepare(self) -> None:
        """Import and set up the SDK now, which takes a second or two, instead of within the first job."""
        if self._settings.can_write_back:
            try:
                self._call(lambda: self._sdk)
            except LabelStudioError as error:  # jobs will say so too, and the token may be mended meanwhile
                log.warning("the Label Studio token cannot be used: %s", error.message)

    def authorization(self) -> Mapping[str, str]:
        """Headers that let a download through; empty without a token."""
        if not self._settings.can_write_back:
            return {}
        headers = self._call(lambda: self._sdk._client_wrapper.get_headers())
        return {"Authorization": headers["Authorization"]}

    def store(self, project_id: int, predictions: Sequence[Prediction]) -> int:
        """Store predictions in one request; returns how many Label Studio really created.

        Its bulk endpoint drops what it does not like silently, and refuses all of them for one bad task id. With each
        request it counts anew what all tasks of the project have, a second for 2,000; so one alone goes another way.
        """
        body = [{"task": p.task_id, **p.to_label_studio()} for p in predictions]
        if len(body) == 1 and self._fits(project_id, body[0]):
            self._post("predictions/", {"project": project_id, **body[0]})
            return 1
        return int(self._post(f"projects/{project_id}/import/predictions", body).json()["created"])

    def _fits(self, project_id: int, body: Mapping[str, object]) -> bool:
        """Whether Label Studio's own library finds the labels in the project's config, as only the bulk endpoint asks.

        Where it does not, or the project cannot be read, the bulk endpoint decides.
        """
        from label_studio_sdk.label_interface import LabelInterface

        try:
            errors = LabelInterface(self.label_config(project_id)).validate_prediction(dict(body), return_errors=True)
        except LabelStudioUnreachable:
            raise
        except Exception as error:
            log.debug("the label config of project %d cannot be used: %s", project_id, error)
            return False
        return not errors

    def _post(self, path: str, body: object) -> httpx.Response:
        # The SDK's own call looks at every box as if it were an unknown object: 156 us a prediction instead of 16.
        return self._send("POST", path, httpx.codes.CREATED, json=body)

    def _send(self, method: str, path: str, *expected: int, **content: Any) -> httpx.Response:
        headers = self._call(lambda: self._sdk._client_wrapper.get_headers())
        with self._translated():
            answer = self._http.request(method, f"{self._settings.label_studio_url}/api/{path}",
                                        headers={"Authorization": headers["Authorization"]}, **content)  # fmt: skip
        if answer.status_code not in expected:
            raise self._error(answer.status_code)
        return answer

    def versions(self, project_id: int, task_ids: Sequence[int]) -> dict[int, dict[str, list[int]]]:
        """Of each of these tasks that the project has, the ids of its predictions by version, in one request.

        Only the data manager's list takes the ids of tasks: 1 ms of Label Studio's processor for each, 12 ms for one
        alone, however many the project has. With `review` it does not ask the project's backend for predictions first.
        """
        if not task_ids:
            return {}  # to Label Studio no ids are all ids
        chosen = json.dumps({"selectedItems": {"all": False, "included": list(task_ids)}}, separators=(",", ":"))
        asked = {"project": project_id, "query": chosen, "page_size": len(task_ids), "fields": "all",
                 "include": "id,predictions", "review": "true", "resolve_uri": "false"}  # fmt: skip
        tasks = self._send("GET", "tasks/", httpx.codes.OK, params=asked).json()["tasks"]
        return {task["id"]: _by_version(task["predictions"]) for task in tasks}

    def versions_of(self, task_id: int) -> dict[str, list[int]]:
        """The ids of one task's predictions by version. Raises LabelStudioRefused where there is no such task."""
        stored = self._call(lambda: list(self._sdk.predictions.list(task=task_id)))
        return _by_version([{"id": one.id, "model_version": one.model_version} for one in stored])

    def predictions(self, task_id: int) -> list[StoredPrediction]:
        """All predictions that the task has."""
        stored = self._call(lambda: list(self._sdk.predictions.list(task=task_id)))
        return [
            StoredPrediction(one.id, one.model_version or "", one.created_at.timestamp(), list(one.result))
            for one in stored
            if one.id is not None and one.created_at is not None
        ]

    def label_config(self, project_id: int) -> str:
        """The project's label config as it is now."""
        return str(self._call(lambda: self._sdk.projects.get(id=project_id)).label_config or "")

    def delete(self, prediction_ids: Sequence[int]) -> None:
        """Delete these predictions, one by one as Label Studio wants it; those that are gone already are no error.

        In 2 or 4 threads 200 took it no less time (1.23.2 on SQLite), and a tenth to a fifth more of its processor.
        """
        for prediction_id in prediction_ids:
            self._send("DELETE", f"predictions/{prediction_id}/", httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND)

    def tasks(self, project_id: int, image_key: str) -> Iterator[tuple[NewTask, Mapping[str, object]]]:
        """All tasks that hold an image, each with its data, page by page."""
        with self._translated():
            for task in self._sdk.tasks.list(project=project_id, page_size=TASKS_A_PAGE, resolve_uri=False):
                data = task.data or {}
                if isinstance(image := data.get(image_key), str):
                    yield NewTask(task_id=int(task.id), image=image), data

    def unlabeled_tasks(self, project_id: int, image_key: str) -> Iterator[NewTask]:
        """Tasks without a submitted annotation, page by page."""
        with self._translated():
            for task in self._sdk.tasks.list(project=project_id, page_size=TASKS_A_PAGE, resolve_uri=False):
                image = (task.data or {}).get(image_key)
                if not task.total_annotations and isinstance(image, str):
                    yield NewTask(task_id=int(task.id), image=image)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def create_snapshot(self, project_id: int, title: str, *, timeout_s: float) -> None:
        """Ask for all tasks with a submitted annotation; a Label Studio without Redis answers only when it is done.

        Not tried again by itself, as each call makes one more snapshot.
        """
        options = {"timeout_in_seconds": max(1, int(timeout_s)), "max_retries": 0}
        annotated = {"annotated": "only"}
        create = self._sdk.projects.exports.create
        self._call(lambda: create(project_id, title=title, task_filter_options=annotated, request_options=options))

    def snapshots(self, project_id: int) -> list[Snapshot]:
        """The newest hundred snapshots of the project."""
        exports = self._call(lambda: self._sdk.projects.exports.list(project_id))
        return [
            Snapshot(e.id, e.title or "", e.status, int((e.counters or {}).get("task_number", 0)), e.created_at)
            for e in exports
        ]

    def download_snapshot(self, project_id: int, snapshot_id: int) -> Iterator[bytes]:
        """The JSON of a completed snapshot, piece by piece."""
        with self._translated():
            yield from self._sdk.projects.exports.download(project_id, snapshot_id)

    def delete_snapshot(self, project_id: int, snapshot_id: int) -> None:
        """Delete a snapshot."""
        self._call(lambda: self._sdk.projects.exports.delete(project_id, snapshot_id))

    # -- errors ------------------------------------------------------------------------------------------------------

    def _call(self, request: Callable[[], T]) -> T:
        with self._translated():
            return request()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from label_studio_sdk.core.api_error import ApiError

        try:
            yield
        except ApiError as error:
            raise self._error(error.status_code or 0) from error
        except httpx.HTTPError as error:
            where = self._settings.label_studio_url
            raise LabelStudioUnreachable(f"{where} did not answer: {type(error).__name__}") from error

    def _error(self, status: int) -> LabelStudioError:
        if status == 401:  # perhaps an access token that ended early, as where clocks differ
            self.__dict__.pop("_sdk", None)
        return _translate(status)


def _by_version(predictions: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in predictions:
        found.setdefault(one["model_version"] or "", []).append(one["id"])
    return found


def _translate(status: int) -> LabelStudioError:
    if status == 429 or status >= 500 or status == 0:
        return LabelStudioUnreachable(f"Label Studio answered {status}")
    if status == 401:  # a token that expired, or is replaced in a minute, must not cost a prediction
        return LabelStudioUnreachable(f"Label Studio answered 401: {_REMEDIES[401]}")
    return LabelStudioRefused(f"Label Studio answered {status}: {_REMEDIES.get(status, 'the request was refused')}")
