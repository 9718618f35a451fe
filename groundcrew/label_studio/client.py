"""What an annotator does in Label Studio's pages, done over its API: projects, images, backends, predictions.

Called by: groundcrew/demo.py and tests/services.
Must not import: backend, worker.
Example: client = LabelStudioClient(server.url, token); project = client.create_project("demo", "<View>...</View>")
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, TypeAlias
from urllib.parse import unquote

import requests

from contract.errors import LabelStudioRefused
from groundcrew.label_studio.login import PersonalToken

#: Label Studio takes 100 files in one upload (DATA_UPLOAD_MAX_NUMBER_FILES).
FILES_PER_UPLOAD = 50
TIMEOUT_S = 180.0

#: A JSON object as Label Studio sends it.
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ImageFile:
    """An encoded image to upload."""

    name: str
    content: bytes
    media_type: str = "image/png"


@dataclass(frozen=True)
class Prediction:
    """One stored prediction."""

    id: int
    task: int
    model_version: str
    score: float | None
    #: regions in Label Studio's format; boxes in percent of the image
    result: list[Json]


@dataclass(frozen=True)
class Backend:
    """One connected ML backend. `state` is CO (connected), ER (error), DI (disconnected), TR (training) and others."""

    id: int
    url: str
    state: str
    model_version: str | None


class LabelStudioClient:
    """Calls one Label Studio as one user. `token` is a personal access token.

    Written on requests rather than the SDK: its errors print headers and cookies instead of Label Studio's sentence.
    Every method raises LabelStudioRefused for an answer that is not a success.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.auth = PersonalToken(url, token)

    def create_project(self, title: str, label_config: str) -> int:
        return int(self._post("/api/projects/", json={"title": title, "label_config": label_config})["id"])

    def set_label_config(self, project: int, label_config: str) -> None:
        self._request("PATCH", f"/api/projects/{project}/", json={"label_config": label_config})

    def delete_project(self, project: int) -> None:
        self._request("DELETE", f"/api/projects/{project}/")

    def delete_tasks(self, project: int, tasks: Sequence[int]) -> None:
        """What the data manager's "Delete Tasks" does."""
        self._act(project, "delete_tasks", tasks)

    def predict_automatically(self, project: int) -> None:
        """From now on the data manager asks the backend for predictions of tasks that it shows and that have none."""
        self._request("PATCH", f"/api/projects/{project}/", json={"evaluate_predictions_automatically": True})

    def connect_backend(
        self, project: int, url: str, *, title: str, is_interactive: bool = True, login: tuple[str, str] | None = None
    ) -> Backend:
        """Connects and checks: Label Studio calls /health and /setup before it answers. `login`: for Basic auth."""
        asked = {"project": project, "url": url, "title": title, "is_interactive": is_interactive}
        if login is not None:
            asked |= {"auth_method": "BASIC_AUTH", "basic_auth_user": login[0], "basic_auth_pass": login[1]}
        made = self._post("/api/ml", json=asked)
        return next(backend for backend in self.backends(project) if backend.id == made["id"])

    def backends(self, project: int) -> list[Backend]:
        """The project's backends; Label Studio calls /health and /setup of each to learn its state."""
        rows = self._get("/api/ml", project=project)
        return [Backend(**{field.name: row[field.name] for field in fields(Backend)}) for row in rows]

    def disconnect_backend(self, backend: int) -> None:
        """Its predictions stay. So does its webhook, which keeps firing."""
        self._request("DELETE", f"/api/ml/{backend}")

    def start_training(self, backend: int) -> None:
        self._post(f"/api/ml/{backend}/train", json={})

    def webhook_urls(self, project: int) -> list[str]:
        return [hook["url"] for hook in self._get("/api/webhooks/", project=project)]

    def upload_images(self, project: int, images: Iterable[ImageFile]) -> int:
        """Makes one task an image, a few dozen an upload, and returns how many there are."""
        waiting = iter(images)
        count = 0
        while chunk := list(islice(waiting, FILES_PER_UPLOAD)):
            # A name a file: of several files under one form field Label Studio keeps the last.
            files = {f"file{i}": (image.name, image.content, image.media_type) for i, image in enumerate(chunk)}
            answer = self._post(f"/api/projects/{project}/import", files=files)
            count += int(answer["task_count"])
        return count

    def import_tasks(self, project: int, image_urls: Sequence[str]) -> int:
        """Makes one task a URL; `image` is the data key that the label config reads."""
        rows = [{"image": url} for url in image_urls]
        return int(self._post(f"/api/projects/{project}/import", json=rows)["task_count"])

    def image_names(self, project: int) -> dict[int, str]:
        """Task id -> name of its uploaded file, without the prefix that Label Studio puts before it."""
        tasks = self._get("/api/tasks", project=project, page_size=100_000)["tasks"]
        return {task["id"]: _uploaded_name(task["data"]["image"]) for task in tasks}

    def retrieve_predictions(self, project: int, tasks: Sequence[int] | None = None) -> Json:
        """What the data manager's "Retrieve Predictions" does: one /predict for all `tasks` (None = the whole project).

        Returns what it says when the backend has answered. Whether anything was stored, only `predictions` tells.
        """
        return self._act(project, "retrieve_tasks_predictions", tasks)

    def predictions(self, project: int) -> list[Prediction]:
        rows = self._get("/api/predictions/", project=project)
        return [Prediction(**{field.name: row[field.name] for field in fields(Prediction)}) for row in rows]

    def open_task(self, task: int) -> Json:
        """What opening a task in the editor requests; asks the backend if the task has no prediction yet."""
        return dict(self._get(f"/api/tasks/{task}"))

    def annotate(self, task: int, regions: Sequence[Json]) -> int:
        """Submits an annotation, as the button does, and returns its id."""
        return int(self._post(f"/api/tasks/{task}/annotations/", json={"result": list(regions)})["id"])

    def change_annotation(self, annotation: int, regions: Sequence[Json]) -> None:
        """Updates a submitted annotation, as the button does."""
        self._request("PATCH", f"/api/annotations/{annotation}/", json={"result": list(regions)})

    def delete_annotations(self, project: int, tasks: Sequence[int]) -> None:
        """What the data manager's "Delete Annotations" does."""
        self._act(project, "delete_tasks_annotations", tasks)

    def sample_by_uncertainty(self, project: int, model_version: str) -> None:
        """Settings > Annotation > Uncertainty sampling, by the scores of one version's predictions."""
        settings = {"sampling": "Uncertainty sampling", "model_version": model_version}
        self._request("PATCH", f"/api/projects/{project}/", json=settings)

    def next_task(self, project: int) -> int:
        """The task that "Label All Tasks" shows first."""
        return int(self._get(f"/api/projects/{project}/next")["id"])

    def annotate_interactively(self, backend: int, task: int, context: Json) -> Json:
        """What Auto-Annotation sends; returns {"data": ...} or {"errors": [...]}. Nothing is stored."""
        return dict(self._post(f"/api/ml/{backend}/interactive-annotating", json={"task": task, "context": context}))

    def _act(self, project: int, action: str, tasks: Sequence[int] | None) -> Json:
        chosen = {"all": True, "excluded": []} if tasks is None else {"all": False, "included": list(tasks)}
        query = {"id": action, "project": project}
        return dict(self._post("/api/dm/actions", params=query, json={"selectedItems": chosen}))

    def _get(self, path: str, **query: int) -> Any:
        return self._request("GET", path, params=query)

    def _post(self, path: str, **body: Any) -> Any:
        return self._request("POST", path, **body)

    def _request(self, method: str, path: str, **parts: Any) -> Any:
        answer = self._session.request(method, self.url + path, timeout=TIMEOUT_S, **parts)
        if not answer.ok:
            raise LabelStudioRefused(f"{method} {path}: {answer.status_code} {answer.text[:1000]}")
        return answer.json() if answer.content else None


def _uploaded_name(image_path: str) -> str:
    """`/data/upload/7/1a2b3c4d-scene-03.png` -> `scene-03.png`."""
    return unquote(image_path.rsplit("/", 1)[-1]).split("-", 1)[-1]
