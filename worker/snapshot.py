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

from contract.errors import GroundcrewError, JobCancelled, LabelStudioError
from worker.files import atomic_file
from worker.labelstudio import LabelStudio, Snapshot

TITLE = "groundcrew training data"  #: what our snapshots are called in Label Studio, before their number
POLL_S = 0.5


def download_snapshot(
    client: LabelStudio, project_id: int, path: Path, *, deadline_s: float, cancelled: Callable[[], bool]
) -> int:
    """Download the annotations of a project to `path`; returns how many tasks the file holds.

    The snapshot is deleted in Label Studio afterwards, also when it is given up before it was ready.

    Raises:
        LabelStudioError: Label Studio refuses, does not answer, fails, or is not ready within the deadline.
        JobCancelled: noticed within a second, but for a stream that stalls.
    """
    watch = _Watch(time.monotonic() + deadline_s, deadline_s, cancelled)
    _delete_leftovers(client, project_id, older_than_s=deadline_s)
    title = f"{TITLE} {uuid.uuid4().hex}"
    asked = _in_background(lambda: client.create_snapshot(project_id, title, timeout_s=deadline_s))
    try:
        snapshot = _wait_until_ready(client, project_id, title, asked, watch)
        with atomic_file(path) as file:
            for piece in client.download_snapshot(project_id, snapshot.id):
                watch.check()
                file.write(piece)
        return snapshot.tasks
    finally:
        asked.add_done_callback(lambda _: _delete(client, project_id, title))


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


def _in_background(call: Callable[[], None]) -> Future[None]:
    """Run in a daemon thread, which, unlike a pool's, keeps no process from ending."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="snapshot", daemon=True).start()
    return future


def _wait_until_ready(client: LabelStudio, project_id: int, title: str, asked: Future[None], watch: _Watch) -> Snapshot:
    """Our snapshot is looked up by its title: a proxy may have cut the request that made it."""
    while True:
        watch.check()
        if wait([asked], timeout=POLL_S).done:
            snapshot = _find(client, project_id, title)
            if snapshot is None:
                asked.result()
                raise LabelStudioError(
                    f"Label Studio lost the export of project {project_id}: start the training again"
                )
            if snapshot.status == "completed":
                return snapshot
            if snapshot.status == "failed":
                raise LabelStudioError(f"Label Studio could not export project {project_id}: its log says why")
            time.sleep(POLL_S)


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
