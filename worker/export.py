"""Label Studio's annotations of one project -> the data of a fine-tuning, task by task.

Called by: worker.finetune. Must not import: torch, Celery.
The tasks are read from a file as a stream, and only a few are in memory at once, whatever the project's size.
Example: `export_dataset(client, settings, 7, label_map, work_dir, lambda done, total: None, lambda: False).counts`
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import ijson

from contract.errors import ImageError, JobCancelled, LabelStudioError, TrainingDataError
from contract.labels import LabelMap
from contract.settings import Settings
from worker.addresses import Fetcher
from worker.annotations import Json, ProjectLabels, choose_annotation, read_boxes, read_project_labels
from worker.dataset import Dataset, DatasetImage, DatasetInfo, LabelledBox, SkippedTask
from worker.image_cache import CachedImage, ImageCache
from worker.labelstudio import LabelStudio
from worker.snapshot import download_snapshot
from worker.splits import SPLITS, Split, SplitItem, assign_splits
from worker.tiles import TileLook

EXPORT_DEADLINE_S = 1800.0  #: for Label Studio to deliver the annotations
DOWNLOADS = 8  #: images fetched at once
CANCEL_LOOK_S = 1.0  #: between two looks at the cancel flag while an image is awaited
MIN_IMAGES = 2  #: with boxes: one to learn from, one to measure with
_NOTHING_KEPT: Mapping[int, Split] = MappingProxyType({})


def export_dataset(
    client: LabelStudio,
    settings: Settings,
    project_id: int,
    label_map: LabelMap,
    out_dir: Path,
    say: Callable[[int, int], None],
    cancelled: Callable[[], bool],
    *,
    model_version: str = "",
    kept_splits: Mapping[int, Split] = _NOTHING_KEPT,
    image_dir: Path | None = None,
    tiles: TileLook | None = None,
    deadline_s: float = EXPORT_DEADLINE_S,
) -> Dataset:
    """Export the submitted annotations of a project, with their images, and write out_dir/dataset.json.

    Args:
        say: progress, called with (tasks done, tasks in all).
        cancelled: looked at between tasks, and at least every second or so while waiting.
        model_version: ref of the version that the data is for; only written down.
        kept_splits: `Dataset.splits` of the data that the base was trained with: none of its tasks moves.
        image_dir: where images are kept for all trainings; MODEL_DIR/.images by default.
        tiles: how the project predicts; None: whole images. Written down, so that the training sees the same.
        deadline_s: for Label Studio to deliver the annotations; each image has IMAGE_TIMEOUT_S.

    Raises:
        TrainingDataError: too little to train on; the sentence says what to annotate.
        LabelStudioError: Label Studio cannot be used. JobCancelled. OSError: out_dir or image_dir cannot be written.
    """
    raw = out_dir / "annotations.json"
    total = download_snapshot(client, project_id, raw, deadline_s=deadline_s, cancelled=cancelled)
    labels = read_project_labels(label_map)
    with closing(Fetcher(settings, client.authorization)) as fetcher:
        cache = ImageCache(image_dir or settings.local_model_dir / ".images", fetcher)
        read_task = TaskReader(labels, label_map.image_key, cache).read
        gathered = _gather(read_tasks(raw, read_task, cancelled), say, total)
    _check_enough(gathered, project_id)
    info = DatasetInfo(project_id, datetime.now(UTC).isoformat(timespec="seconds"), model_version, labels.config_hash)
    dataset = replace(_assemble(info, labels, gathered, cache.directory, kept_splits), tiles=tiles)
    dataset.write(out_dir)
    raw.unlink()
    return dataset


# -- one task --------------------------------------------------------------------------------------------------------


class LabelledImage(NamedTuple):
    """One task that can be trained on."""

    task_id: int
    image: CachedImage
    boxes: tuple[LabelledBox, ...]
    notes: Counter[str]


@dataclass(frozen=True)
class TaskReader:
    """Turns one exported task into an image with boxes, or a reason why not."""

    labels: ProjectLabels
    image_key: str  #: the task's field that holds the image
    cache: ImageCache

    def read(self, task: Json) -> LabelledImage | SkippedTask:
        """Raises OSError when the image cannot be kept: a full disk is no property of the task."""
        try:
            return self._read(task)
        except (ImageError, TrainingDataError) as error:
            return SkippedTask(task["id"], error.message)

    def _read(self, task: Json) -> LabelledImage:
        annotation, notes = choose_annotation(task)
        address = task["data"].get(self.image_key)
        if not isinstance(address, str):
            raise TrainingDataError(f'it has no image under "{self.image_key}"')
        image = self.cache.get(address, task_id=task["id"])
        boxes = read_boxes(annotation, self.labels, width_px=image.width_px, height_px=image.height_px)
        return LabelledImage(task["id"], image, boxes.boxes, notes + boxes.notes)


# -- all tasks -------------------------------------------------------------------------------------------------------

ReadTask = Callable[[Json], LabelledImage | SkippedTask]


def read_tasks(raw: Path, read: ReadTask, cancelled: Callable[[], bool]) -> Iterator[LabelledImage | SkippedTask]:
    """In the order of the file; at most two tasks a thread are ahead of the one that is awaited."""
    waiting: deque[Future[LabelledImage | SkippedTask]] = deque()
    with _pool() as pool:
        for task in stream_tasks(raw):
            waiting.append(pool.submit(read, task))
            if len(waiting) > 2 * DOWNLOADS:
                yield _result(waiting.popleft(), cancelled)
        while waiting:
            yield _result(waiting.popleft(), cancelled)


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """A pool that is left at once: a stalled download must not hold up a cancel."""
    pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="image")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(future: Future[LabelledImage | SkippedTask], cancelled: Callable[[], bool]) -> LabelledImage | SkippedTask:
    while True:
        if cancelled():
            raise JobCancelled("cancelled while the images were fetched")
        if wait([future], timeout=CANCEL_LOOK_S).done:
            return future.result()


def stream_tasks(raw: Path) -> Iterator[Json]:
    """The tasks of an export file, one at a time. Raises LabelStudioError when it is damaged."""
    try:
        with raw.open("rb") as file:
            yield from ijson.items(file, "item", use_float=True)
    except ijson.JSONError as error:
        raise LabelStudioError(f"the export is damaged ({str(error).splitlines()[0]}): try again") from None


@dataclass
class _Gathered:
    """What was read: small rows, no raw tasks."""

    images: list[LabelledImage] = field(default_factory=list)
    skipped: list[SkippedTask] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def _gather(rows: Iterable[LabelledImage | SkippedTask], say: Callable[[int, int], None], total: int) -> _Gathered:
    gathered = _Gathered()
    for done, row in enumerate(rows, start=1):
        if isinstance(row, SkippedTask):
            gathered.skipped.append(row)
        else:
            gathered.images.append(row)
            gathered.notes.update(row.notes)
        say(done, max(done, total))
    return gathered


def _check_enough(gathered: _Gathered, project_id: int) -> None:
    """Images count once, however many tasks show them."""
    if not gathered.images and not gathered.skipped:
        raise TrainingDataError(
            f"project {project_id} has no submitted annotation: annotate at least {MIN_IMAGES} images and submit them"
        )
    usable = len({row.image.file_name for row in gathered.images if row.boxes})
    if usable < MIN_IMAGES:
        raise TrainingDataError(
            f"project {project_id}: a training takes at least {MIN_IMAGES} images with boxes of its labels, one to "
            f"learn from and one to measure with, and {usable} can be used: annotate more{_why(gathered.skipped)}"
        )


def _why(skipped: Sequence[SkippedTask]) -> str:
    if not skipped:
        return ""
    reason, count = Counter(task.reason for task in skipped).most_common(1)[0]
    return f" ({len(skipped)} tasks were left out, {count} of them because: {reason})"


# -- the dataset -----------------------------------------------------------------------------------------------------


def _assemble(
    info: DatasetInfo, labels: ProjectLabels, gathered: _Gathered, image_dir: Path, kept: Mapping[int, Split]
) -> Dataset:
    rows = sorted(gathered.images, key=lambda row: row.task_id)
    splits = assign_splits([_split_item(row) for row in rows], kept=kept)
    _check_splits(rows, splits)
    return Dataset(
        info=info,
        categories=labels.categories,
        images=tuple(DatasetImage(row.task_id, *row.image, splits[row.task_id], row.boxes) for row in rows),
        image_dir=image_dir.resolve(),
        notes=dict(sorted(gathered.notes.items())),
        skipped=tuple(sorted(gathered.skipped)),
    )


def _split_item(row: LabelledImage) -> SplitItem:
    return SplitItem(row.task_id, row.image.file_name, frozenset(box.category_id for box in row.boxes))


def _check_splits(rows: Sequence[LabelledImage], splits: Mapping[int, Split]) -> None:
    """Only kept splits can leave one without boxes: two images or more are shared out otherwise."""
    filled = {splits[row.task_id] for row in rows if row.boxes}
    for split, purpose in zip(SPLITS, ("learn from", "measure with"), strict=True):
        if split not in filled:
            raise TrainingDataError(
                f"earlier trainings used all annotated images in another role, and none is left to {purpose}: "
                "annotate images that no training has seen"
            )
