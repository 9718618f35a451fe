"""All submitted annotations of one project, as Label Studio's JSON in a file: made there, then downloaded as a stream.

Called by: worker.export. Must not import: torch, Celery.
Example: `download_snapshot(client, 7, work_dir / "annotations.json", deadline_s=1800, cancelled=lambda: False)`
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.errors import GroundcrewError, JobCancelled, LabelStudioError, LabelStudioUnreachable
from worker.files import atomic_file
from worker.labelstudio import LabelStudio, Snapshot

TITLE = "groundcrew training data"  #: what our snapshots are called in Label Studio, before their number
POLL_S = 0.5
ATTEMPTS = 10  #: to have a snapshot begun; SQLite's lock adds 5 s to each


def download_snapshot(
    client: LabelStudio,
    project_id: int,
    path: Path,
    *,
    deadline_s: float,
    cancelled: Callable[[], bool],
    poll_s: float = POLL_S,
) -> int:
    """Download the annotations of a project to `path`; returns how many tasks the file holds.

    The snapshot is deleted in Label Studio afterwards, also when it is given up before it was ready.

    Raises:
        LabelStudioError: Label Studio refuses, does not answer, fails, or is not ready within the deadline.
        JobCancelled: noticed within a second, but for a stream that stalls.
    """
    watch = _Watch(time.monotonic() + deadline_s, deadline_s, cancelled)
    _delete_leftovers(client, project_id, older_than_s=deadline_s)
    order = _Order(client, project_id, timeout_s=deadline_s)
    try:
        snapshot = _wait_until_ready(order, watch, poll_s)
        with atomic_file(path) as file:
            for piece in client.download_snapshot(project_id, snapshot.id):
                watch.check()
                file.write(piece)
        return snapshot.tasks
    finally:
        order.delete_when_answered()


class _Watch:
    """Deadline and cancel flag, looked at between steps."""

    def __init__(self, ends_at: float, deadline_s: float, cancelled: Callable[[], bool]) -> None:
        self._ends_at = ends_at
        self._deadline_s = deadline_s
        self._cancelled = cancelled

    def check(self) -> None:
        """Raises JobCancelled or LabelStudioError when it is time to give up."""
        if self._cancelled():
            raise JobCancelled("cancelled while Label Studio exported the annotations")
        if time.monotonic() > self._ends_at:
            raise LabelStudioError(
                f"Label Studio did not deliver the annotations within {self._deadline_s:g} seconds: "
                "try again when it is less busy"
            )


class _Order:
    """One snapshot, ordered under a title of its own: by that it is found even if a proxy cuts the request."""

    def __init__(self, client: LabelStudio, project_id: int, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._title = f"{TITLE} {uuid.uuid4().hex}"
        self.project_id = project_id
        self.asked: Future[None]
        self.ask()

    def ask(self) -> None:
        """Ask in a daemon thread, which, unlike a pool's, keeps no process from ending."""
        self.asked = Future()
        threading.Thread(target=self._ask, args=(self.asked,), name="snapshot", daemon=True).start()

    def _ask(self, asked: Future[None]) -> None:
        try:
            asked.set_result(self._client.create_snapshot(self.project_id, self._title, timeout_s=self._timeout_s))
        except BaseException as error:
            asked.set_exception(error)

    def find(self) -> Snapshot | None:
        return _find(self._client, self.project_id, self._title)

    def delete_when_answered(self) -> None:
        self.asked.add_done_callback(lambda _: _delete(self._client, self.project_id, self._title))


def _wait_until_ready(order: _Order, watch: _Watch, poll_s: float) -> Snapshot:
    attempts = 1
    while True:
        watch.check()
        if not wait([order.asked], timeout=poll_s).done:
            continue
        snapshot = order.find()
        if snapshot is None:
            _check_worth_another(order, attempts)
            attempts += 1
            order.ask()
        elif snapshot.status == "completed":
            return snapshot
        elif snapshot.status == "failed":
            raise LabelStudioError(f"Label Studio could not export project {order.project_id}: its log says why")
        time.sleep(poll_s)


def _check_worth_another(order: _Order, attempts: int) -> None:
    """Nothing was begun: a Label Studio on SQLite answers 500 while it writes other things, so it is asked again."""
    error = order.asked.exception() or LabelStudioUnreachable("Label Studio lost the export: start the training again")
    if attempts == ATTEMPTS or not (isinstance(error, GroundcrewError) and error.retry):
        raise error


def _find(client: LabelStudio, project_id: int, title: str) -> Snapshot | None:
    return next((snapshot for snapshot in client.snapshots(project_id) if snapshot.title == title), None)


def _delete(client: LabelStudio, project_id: int, title: str) -> None:
    """Best effort: the next export deletes what stays."""
    with contextlib.suppress(GroundcrewError):
        snapshot = _find(client, project_id, title)
        if snapshot is not None:
            client.delete_snapshot(project_id, snapshot.id)


def _delete_leftovers(client: LabelStudio, project_id: int, *, older_than_s: float) -> None:
    """Snapshots of trainers that were killed. Younger ones may belong to a trainer at work elsewhere."""
    limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
    for snapshot in client.snapshots(project_id):
        if snapshot.title.startswith(TITLE) and snapshot.created_at < limit:
            _delete(client, project_id, snapshot.title)
