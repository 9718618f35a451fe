"""What Label Studio says of its projects, their ML backends and webhooks; and which of these backends are ours.

Called by: groundcrew.checks.patient. Must not import: label_studio_sdk (it takes seconds to import), backend, worker.
Listing a project's backends makes Label Studio call /health and /setup of each: the state it answers is of this moment.
Example: `[link.backend.state for link in find_links(read_projects(url, headers), "http://127.0.0.1:9090")]`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

TIMEOUT_S = 30.0  #: Label Studio tries a backend that is away three times, a second each
HEALTH_TIMEOUT_S = 3.0
MOST_PROJECTS = 100  #: the newest ones; each costs a request

Answerer = Literal["groundcrew", "another program", "nobody"]


@dataclass(frozen=True)
class Backend:
    """One row of Label Studio's list of ML backends."""

    url: str
    state: str  #: CO connected, DI disconnected, ER error, TR training, PR predicting
    auth_method: str  #: NONE or BASIC_AUTH
    error_message: str


@dataclass(frozen=True, repr=False)  # URL and headers may hold WEBHOOK_SECRET
class Webhook:
    """One webhook of a project."""

    url: str
    is_active: bool
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Project:
    """One project with all that is connected to it."""

    id: int
    title: str
    label_config: str
    backends: tuple[Backend, ...]
    webhooks: tuple[Webhook, ...]
    refusal: str = ""  #: why Label Studio does not list its backends

    @property
    def name(self) -> str:
        return f"project {self.id} ({self.title})"


@dataclass(frozen=True)
class Link:
    """A project and one of its backends that is ours."""

    project: Project
    backend: Backend
    answerer: Answerer  #: who answers at the backend's URL, asked from this machine


def read_projects(url: str, headers: Mapping[str, str]) -> list[Project]:
    """The newest projects. Raises requests.RequestException."""
    with requests.Session() as session:
        session.headers.update(headers)
        query: dict[str, str | int] = {"page_size": MOST_PROJECTS, "include": "id,title,label_config"}
        rows = _get(session, f"{url}/api/projects/", query)["results"]
        return [_read_project(session, url, row) for row in rows]


def find_links(projects: Sequence[Project], api_url: str) -> list[Link]:
    """Backends that answer as Groundcrew, and those that nobody answers for but that name our port."""
    links = [
        Link(project, backend, who_answers(backend.url)) for project in projects for backend in project.backends
    ]
    port = urlsplit(api_url).port
    return [
        link
        for link in links
        if link.answerer == "groundcrew" or (link.answerer == "nobody" and urlsplit(link.backend.url).port == port)
    ]


def who_answers(url: str) -> Answerer:
    """Ask /health of a backend, as Label Studio does."""
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S)
        return "groundcrew" if answer.json().get("model_class") == "Groundcrew" else "another program"
    except requests.JSONDecodeError:
        return "another program"
    except requests.RequestException:
        return "nobody"


def _read_project(session: requests.Session, url: str, row: Mapping[str, Any]) -> Project:
    query = {"project": row["id"]}
    facts = {"id": row["id"], "title": row["title"], "label_config": row["label_config"]}
    try:
        backends = [_read_backend(found) for found in _get(session, f"{url}/api/ml", query)]
    except requests.HTTPError as error:
        return Project(**facts, backends=(), webhooks=(), refusal=f"Label Studio answered {error.response.status_code}")
    rows = _get(session, f"{url}/api/webhooks/", query) if backends else []
    webhooks = [Webhook(found["url"], found["is_active"], found["headers"] or {}) for found in rows]
    return Project(**facts, backends=tuple(backends), webhooks=tuple(webhooks))


def _read_backend(row: Mapping[str, Any]) -> Backend:
    return Backend(row["url"], row["state"], row.get("auth_method", "NONE"), row.get("error_message") or "")


def _get(session: requests.Session, url: str, query: Mapping[str, Any]) -> Any:
    answer = session.get(url, params=query, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()
