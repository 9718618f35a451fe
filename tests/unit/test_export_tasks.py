"""From an export file to images with boxes, without Label Studio: streaming, reasons, cancelling, the image cache.

Run by: pytest. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_export_tasks.py
"""

from __future__ import annotations

import base64
import io
import json
import threading
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from contract.errors import JobCancelled, LabelStudioError
from contract.labels import read_label_config
from contract.settings import read_settings
from worker.addresses import Fetcher
from worker.annotations import read_project_labels
from worker.dataset import LabelledBox, SkippedTask
from worker.export import DOWNLOADS, LabelledImage, TaskReader, read_tasks, stream_tasks
from worker.image_cache import ImageCache
from worker.images import decode_image

LABELS = read_project_labels(read_label_config("""<View><Image name="image" value="$photo"/>
  <RectangleLabels name="label" toName="image"><Label value="car"/></RectangleLabels></View>"""))  # fmt: skip
TURN_RIGHT = 6  # EXIF: the first column of the file is the top row of the picture
BOX_PCT = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["car"]}


def picture(colour: str = "red", *, size_px=(64, 48), orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.new("RGB", size_px, colour).save(data, "jpeg", exif=exif)
    return data.getvalue()


def data_uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def task(task_id: int, address: object, *, size_px=(64, 48), key: str = "photo") -> dict:
    size = {"original_width": size_px[0], "original_height": size_px[1]}
    region = {"type": "rectanglelabels", "from_name": "label", "to_name": "image", **size, "value": BOX_PCT}
    return {"id": task_id, "data": {key: address}, "annotations": [{"id": 1, "result": [region]}], "predictions": [5]}


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    """Where a Label Studio on this machine would keep uploads of project 1."""
    folder = tmp_path / "label-studio" / "media" / "upload" / "1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def cache(tmp_path: Path, uploads: Path) -> ImageCache:
    settings = read_settings({"LABEL_STUDIO_DATA_DIR": str(tmp_path / "label-studio")})
    return ImageCache(tmp_path / "images", Fetcher(settings, dict))


@pytest.fixture
def reader(cache: ImageCache) -> TaskReader:
    return TaskReader(LABELS, "photo", cache)


def test_a_photo_taken_upright_is_measured_upright(reader, cache) -> None:
    # given a file of 64 x 48 pixels that browsers show as 48 x 64, and a box drawn on what they show
    address = data_uri(picture(orientation=TURN_RIGHT))

    # when
    row = reader.read(task(7, address, size_px=(48, 64)))

    # then the box fits the pixels that training decodes
    assert isinstance(row, LabelledImage)
    assert (row.image.width_px, row.image.height_px) == (48, 64)
    assert row.boxes == (pytest.approx(LabelledBox(4.8, 12.8, 14.4, 25.6, 1)),)
    pixels = decode_image((cache.directory / row.image.file_name).read_bytes(), limit_px=10**6)
    assert pixels.shape == (64, 48, 3)


def test_a_task_that_cannot_be_used_is_left_out_with_its_reason(reader) -> None:
    # given a broken file, a missing one, a host that is not allowed, no image, and a photo measured on its side
    half = picture()[:400]
    tasks = [
        task(1, data_uri(half)), task(2, "/data/upload/1/gone.png"), task(3, "ftp://host/a.png"), task(4, None),
        task(5, "x", key="image"), task(6, data_uri(picture(orientation=TURN_RIGHT))),
    ]  # fmt: skip

    # when
    rows = [reader.read(each) for each in tasks]

    # then
    reasons = {row.task_id: row.reason for row in rows if isinstance(row, SkippedTask)}
    words = {1: "damaged", 2: "no file gone.png", 3: "not read from ftp", 4: 'no image under "photo"',
             5: 'no image under "photo"', 6: "drawn on 64 x 48 pixels, but the image has 48 x 64"}  # fmt: skip
    assert set(reasons) == set(words)
    assert all(word in reasons[task_id] for task_id, word in words.items())


def test_a_disk_that_takes_no_image_is_not_the_tasks_fault(reader, cache) -> None:
    cache.directory.write_text("a file where the folder should be")

    with pytest.raises(OSError, match="images"):
        reader.read(task(1, data_uri(picture())))


def test_each_content_is_kept_once(cache, uploads) -> None:
    # given two uploads and a data URI with the same content, and one with another
    (uploads / "a.jpg").write_bytes(picture("red"))
    (uploads / "b.jpg").write_bytes(picture("red"))
    addresses = ["/data/upload/1/a.jpg", "/data/upload/1/b.jpg", data_uri(picture("red")), data_uri(picture("blue"))]

    # when
    names = [cache.get(address).file_name for address in addresses]

    # then
    files = [path for path in cache.directory.glob("??/*") if path.is_file()]
    assert len(set(names[:3])) == 1
    assert len(set(names)) == len(files) == 2


def test_an_upload_is_fetched_once_for_all_trainings(cache, uploads) -> None:
    # given an upload that was used before, and is out of reach now
    (uploads / "a.jpg").write_bytes(picture())
    first = cache.get("/data/upload/1/a.jpg")
    (uploads / "a.jpg").unlink()

    # when / then
    assert ImageCache(cache.directory, cache.fetcher).get("/data/upload/1/a.jpg") == first


def test_a_cached_file_that_was_deleted_is_fetched_again(cache, uploads) -> None:
    (uploads / "a.jpg").write_bytes(picture())
    first = cache.get("/data/upload/1/a.jpg")
    (cache.directory / first.file_name).unlink()

    assert cache.get("/data/upload/1/a.jpg") == first
    assert (cache.directory / first.file_name).read_bytes() == picture()


# -- many tasks ------------------------------------------------------------------------------------------------------


def write_export(path: Path, count: int, *, padding: str = "") -> Path:
    address = data_uri(picture())
    with path.open("w") as file:
        for task_id in range(count):
            file.write(("," if task_id else "[") + json.dumps({**task(task_id, address), "meta": padding}))
        file.write("]")
    return path


def test_the_tasks_of_a_large_export_are_never_in_memory_together(tmp_path) -> None:
    # given 20 MB of tasks
    raw = write_export(tmp_path / "annotations.json", 2000, padding="x" * 10_000)

    # when they are read with a reader that keeps no more than their ids
    tracemalloc.start()
    rows = list(read_tasks(raw, lambda each: SkippedTask(each["id"], "read"), lambda: False))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # then
    assert [row.task_id for row in rows] == list(range(2000))
    assert raw.stat().st_size > 20e6
    assert peak_bytes < 3e6


def test_numbers_of_an_export_are_plain_floats(tmp_path) -> None:
    raw = tmp_path / "annotations.json"
    raw.write_text('[{"id": 3, "x": 12.345678901234567}]')

    assert list(stream_tasks(raw)) == [{"id": 3, "x": 12.345678901234567}]
    assert type(next(stream_tasks(raw))["x"]) is float


def test_an_export_that_breaks_off_is_an_error(tmp_path) -> None:
    raw = write_export(tmp_path / "annotations.json", 3)
    raw.write_bytes(raw.read_bytes()[:-5])

    with pytest.raises(LabelStudioError, match="export is damaged"):
        list(stream_tasks(raw))


def test_a_cancel_is_noticed_while_an_image_stalls(tmp_path) -> None:
    # given downloads that do not end, and someone who cancels once they have begun
    raw = write_export(tmp_path / "annotations.json", 3 * DOWNLOADS)
    begun, let_go = threading.Event(), threading.Event()

    def stall(each: dict) -> SkippedTask:
        begun.set()
        let_go.wait()
        return SkippedTask(each["id"], "late")

    # when / then it comes back although nothing was let go
    try:
        with pytest.raises(JobCancelled):
            list(read_tasks(raw, stall, begun.is_set))
    finally:
        let_go.set()
