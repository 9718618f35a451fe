"""Files, folders, patterns and addresses lead to images, each once; what leads nowhere is told with its name.

Called by: pytest. Must not import: torch, Celery.
Example: .venv/bin/python -m pytest tests/unit/test_sources.py
"""

from pathlib import Path

import pytest

from contract.errors import ImageUnreadable, RequestError
from contract.jobs import NewTask
from contract.settings import read_settings
from groundcrew.label_studio_json import choose_address
from groundcrew.predict_output import Output
from groundcrew.sources import Source, SourceError, find_sources, from_tasks
from worker.addresses import Fetcher


@pytest.fixture
def photos(tmp_path):
    """A folder with two images below it, and what is none."""
    for name in ("a.JPG", "deep/b.png", "notes.txt", ".hidden/c.png", "out/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes of " + name.encode())
    return tmp_path / "photos"


def relatives(*names: object, besides: Path | None = None) -> list[str]:
    return [source.relative for source in find_sources(map(str, names), besides=besides)]


def test_a_folder_means_every_image_below_it_but_no_hidden_one_and_no_earlier_output(photos):
    assert relatives(photos, besides=photos / "out") == ["a.JPG", "deep/b.png"]
    assert relatives(photos) == ["a.JPG", "deep/b.png", "out/a.png"]
    assert relatives(photos / "out", besides=photos / "out") == ["a.png"]  # named, so meant


def test_a_pattern_and_a_file_name_the_same_image_once(photos):
    assert relatives(photos / "**/*.png", photos / "deep" / "b.png") == ["b.png", "a.png"]


def test_a_file_is_taken_whatever_it_is_called(photos):
    (source,) = find_sources([str(photos / "notes.txt")])

    assert source.read(Fetcher(read_settings({}), dict)) == b"bytes of notes.txt"


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    (tmp_path / "a[1].png").write_bytes(b"x")

    assert relatives(tmp_path / "a[1].png") == ["a[1].png"]
    assert relatives(tmp_path / "a*") == ["a[1].png"]


def test_an_address_is_kept_as_it_is():
    (source,) = find_sources(["https://example.org/x/a%20b.jpg?size=1"])

    assert (source.address, source.path, source.relative) == ("https://example.org/x/a%20b.jpg?size=1", None, "a b.jpg")


@pytest.mark.parametrize("name", ["nothing-here.png", "nothing/*.png"])
def test_what_leads_nowhere_is_told_by_its_name(name):
    with pytest.raises(SourceError, match=r"^nothing"):
        find_sources([name])


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"leads to no image; looked for \.bmp"):
        find_sources([str(tmp_path)])


def test_a_file_that_goes_away_concerns_itself_only(photos):
    (source,) = find_sources([str(photos / "a.JPG")])
    (photos / "a.JPG").unlink()

    with pytest.raises(ImageUnreadable, match="No such file"):
        source.read(Fetcher(read_settings({}), dict))


def test_tasks_keep_their_data():
    data = {"image": "s3://bucket/a.jpg", "id": "x"}

    (source,) = from_tasks([(NewTask(task_id=7, image="s3://bucket/a.jpg"), data)])

    assert (source.name, source.relative, source.data) == ("task 7", "task-7.jpg", data)


# -- how Label Studio reaches them -------------------------------------------------------------------------------------


def test_files_are_addressed_by_prefix_by_local_root_or_embedded(photos):
    source = Source("deep/b.png", "deep/b.png", photos / "deep" / "b.png")

    assert choose_address("https://host/photos/", None)(source) == "https://host/photos/deep/b.png"
    assert choose_address("", photos.parent)(source) == "/data/local-files/?d=photos/deep/b.png"
    assert choose_address("", photos.parent / "elsewhere")(source).startswith("data:image/png;base64,")


def test_addresses_stay_theirs():
    assert choose_address("https://host", None)(Source("u", "a.png", address="https://b/a.png")) == "https://b/a.png"


@pytest.mark.parametrize("formats", ["", "yolo", "coco,yolo"])
def test_a_format_that_does_not_exist_is_refused(formats):
    with pytest.raises(RequestError, match="pictures, coco, label-studio"):
        Output.read(Path("out"), formats, "")
