"""Snapshots of annotations when things go wrong, with a hand-written Label Studio; the real one is in tests/services.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_snapshot.py
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path

import pytest

from contract.errors import GroundcrewError, JobCancelled, LabelStudioError, LabelStudioRefused, LabelStudioUnreachable
from worker.labelstudio import Snapshot
from worker.snapshot import TITLE, download_snapshot

PROJECT = 7


@dataclass
class FakeLabelStudio:
    """Keeps snapshots. `statuses` are what a new one goes through, one at each look; the last stays."""

    statuses: list[str]
    refusals: list[GroundcrewError] = field(default_factory=list)  #: what the first requests end with, nothing begun
    cut: GroundcrewError | None = None  #: what every request ends with, its snapshot begun nevertheless
    answers: threading.Event = field(default_factory=threading.Event)  #: creating one answers when it is set
    kept: dict[int, Snapshot] = field(default_factory=dict)
    pieces: Iterable[bytes] = (b"[1,", b"2,", b"3]")  #: of the file
    sent: int = 0  #: of these pieces
    asker: threading.Thread | None = None  #: the thread that asked for a snapshot

    def create_snapshot(self, project_id: int, title: str, *, timeout_s: float) -> None:
        self.asker = threading.current_thread()
        if self.refusals:
            raise self.refusals.pop(0)
        number = len(self.kept) + 1
        self.kept[number] = Snapshot(number, title, "created", 0, datetime.now(UTC))
        self.answers.wait()
        if self.cut is not None:
            raise self.cut

    def snapshots(self, project_id: int) -> list[Snapshot]:
        now = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return [kept._replace(status=now, tasks=3) for kept in self.kept.values()]

    def download_snapshot(self, project_id: int, snapshot_id: int) -> Iterator[bytes]:
        for piece in self.pieces:
            self.sent += 1
            yield piece

    def delete_snapshot(self, project_id: int, snapshot_id: int) -> None:
        del self.kept[snapshot_id]


def make_label_studio(*statuses: str, is_quick: bool = True, **others: object) -> FakeLabelStudio:
    fake = FakeLabelStudio(list(statuses), **others)  # type: ignore[arg-type]
    if is_quick:
        fake.answers.set()
    return fake


def download(fake: FakeLabelStudio, path: Path, *, deadline_s: float = 60, cancelled=lambda: False) -> int:
    return download_snapshot(fake, PROJECT, path, deadline_s=deadline_s, cancelled=cancelled, poll_s=0.01)


def test_the_file_arrives_and_nothing_is_left_in_label_studio(tmp_path) -> None:
    # given one that takes a look or two
    fake = make_label_studio("created", "in_progress", "completed")

    # when
    tasks = download(fake, tmp_path / "annotations.json")

    # then
    assert (tasks, (tmp_path / "annotations.json").read_bytes()) == (3, b"[1,2,3]")
    assert fake.kept == {}


def test_a_proxy_that_cuts_the_request_does_not_matter(tmp_path) -> None:
    # given a gateway that answers 504 while Label Studio goes on
    fake = make_label_studio("in_progress", "completed", cut=LabelStudioUnreachable("Label Studio answered 504"))

    # when / then
    assert download(fake, tmp_path / "annotations.json") == 3


def test_a_refusal_is_told_as_it_is(tmp_path) -> None:
    refusal = LabelStudioRefused("Label Studio answered 403: invite the user")

    with pytest.raises(LabelStudioRefused, match="invite the user"):
        download(make_label_studio("completed", refusals=[refusal]), tmp_path / "annotations.json")


def test_a_label_studio_that_is_busy_is_asked_again(tmp_path) -> None:
    # given one on SQLite, which something else locks for a while
    busy = LabelStudioUnreachable("Label Studio answered 500")
    fake = make_label_studio("completed", refusals=[busy, busy])

    # when / then
    assert download(fake, tmp_path / "annotations.json") == 3
    assert fake.kept == {}


def test_a_label_studio_that_stays_busy_is_given_up(tmp_path) -> None:
    busy = LabelStudioUnreachable("Label Studio answered 500")

    with pytest.raises(LabelStudioUnreachable, match="500"):
        download(make_label_studio("completed", refusals=[busy] * 100), tmp_path / "annotations.json")


def test_a_failed_export_is_an_error(tmp_path) -> None:
    with pytest.raises(LabelStudioError, match="could not export project 7"):
        download(make_label_studio("in_progress", "failed"), tmp_path / "annotations.json")


@pytest.mark.parametrize("is_quick", [True, False])
def test_an_export_that_is_never_ready_ends_at_its_deadline(tmp_path, is_quick) -> None:
    # given a Label Studio that works in the background, or one that keeps the request open
    fake = make_label_studio("in_progress", is_quick=is_quick)

    # when / then
    with pytest.raises(LabelStudioError, match=r"within 0\.8 seconds"):
        download(fake, tmp_path / "annotations.json", deadline_s=0.8)
    assert list(tmp_path.iterdir()) == []
    fake.answers.set()
    fake.asker.join()
    assert fake.kept == {}


def test_a_cancel_does_not_wait_for_label_studio_and_cleans_up_later(tmp_path) -> None:
    # given a Label Studio that keeps the request open, and a job that is cancelled meanwhile
    fake = make_label_studio("completed", is_quick=False)

    # when
    with pytest.raises(JobCancelled):
        download(fake, tmp_path / "annotations.json", cancelled=lambda: bool(fake.kept))

    # then the snapshot goes when Label Studio has finished it
    assert len(fake.kept) == 1
    fake.answers.set()
    fake.asker.join()
    assert fake.kept == {}


def test_a_cancel_is_noticed_while_the_file_arrives(tmp_path) -> None:
    # given a file without end
    fake = make_label_studio("completed", pieces=repeat(b"1,"))

    # when
    with pytest.raises(JobCancelled):
        download(fake, tmp_path / "annotations.json", cancelled=lambda: fake.sent > 2)

    # then
    assert list(tmp_path.iterdir()) == []
    assert fake.kept == {}


def test_what_a_killed_trainer_left_is_deleted_and_nothing_else(tmp_path) -> None:
    # given a snapshot of a trainer killed yesterday, one of a trainer at work, and one that somebody made by hand
    now, yesterday = datetime.now(UTC), datetime.now(UTC) - timedelta(days=1)
    fake = make_label_studio("completed")
    fake.kept = {
        10: Snapshot(10, f"{TITLE} killed", "completed", 3, yesterday),
        11: Snapshot(11, f"{TITLE} at work", "completed", 3, now),
        12: Snapshot(12, "by hand", "completed", 3, yesterday),
    }

    # when
    download(fake, tmp_path / "annotations.json")

    # then
    assert sorted(fake.kept) == [11, 12]
