"""`groundcrew predict`: pictures and JSON say where things are, and no image spoils or overwrites another.

Called by: pytest. Most tests find plain colours instead of running the model; the last ones use the real tiny one.
Must not import: Celery, redis.
Example: .venv/bin/python -m pytest tests/flow/test_predict_command.py
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from contract.errors import CheckpointMismatch, PromptError
from contract.settings import read_settings
from groundcrew.boxes import measure_iou
from groundcrew.cli import main
from groundcrew.pictures import pick_colours
from groundcrew.predict import ImagesFailed, NothingToDo, predict_sources, read_prompt
from groundcrew.predict_output import CannotWrite, Output
from groundcrew.sources import Source, name_pictures
from groundcrew.zoo.scenes import make_scene
from tests.fakes.colour_detector import ColourDetector

#: Any model will do where the detector is a fake; the files are never read.
SETTINGS = read_settings({}, config_file="colours.py", checkpoint_file="colours-0123abcd.pth")
RED_AT_PX = (30, 20, 70, 80)  # left, top, right, bottom
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mmcv")

EXIF_ORIENTATION = 0x0112
TURNED_RIGHT = 6  # "the first row is the right side": shown, the stored image is turned clockwise by 90 degrees


def write_image(path: Path, *, size_px: tuple[int, int] = (160, 100), orientation: int = 1) -> Path:
    """A red rectangle at RED_AT_PX on white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size_px, "white")
    image.paste((255, 0, 0), RED_AT_PX)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(path, exif=exif)
    return path


def read_pixels(path: Path) -> np.ndarray:
    """(H, W, 3)"""
    with Image.open(path) as picture:
        return np.asarray(picture)


def write_into(folder: Path, formats: str = "pictures,coco") -> Output:
    return Output.read(folder, formats, "")


@pytest.fixture
def detector() -> ColourDetector:
    return ColourDetector()


@pytest.fixture
def predict(tmp_path, detector):
    """Predicts with the colour detector and returns what predictions.json holds."""

    def run(images, prompt="red thing . blue thing", **settings) -> dict:
        names, output = [str(image) for image in images], write_into(tmp_path / "out")
        predict_sources(SETTINGS.model_copy(update=settings), names, prompt, output, load=lambda _: detector)
        return json.loads((tmp_path / "out" / "predictions.json").read_text())

    return run


def test_the_json_says_what_is_where_in_pixels(tmp_path, predict):
    answer = predict([write_image(tmp_path / "a.png")])

    assert answer["images"] == [
        {"id": 1, "file_name": str(tmp_path / "a.png"), "width": 160, "height": 100, "picture": "a.png"}
    ]
    assert answer["categories"] == [{"id": 1, "name": "red thing"}, {"id": 2, "name": "blue thing"}]
    assert answer["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 20, 40, 60], "area": 2400, "score": 0.9, "iscrowd": 0}
    ]


def test_pycocotools_reads_the_json(tmp_path, predict):
    predict([write_image(tmp_path / "a.png"), write_image(tmp_path / "b.png")])

    coco = COCO(str(tmp_path / "out" / "predictions.json"))

    boxes = [coco.loadAnns(coco.getAnnIds(imgIds=[image]))[0]["bbox"] for image in coco.getImgIds()]
    assert boxes == [[30, 20, 40, 60]] * 2


def test_the_picture_shows_the_box(tmp_path, predict):
    predict([write_image(tmp_path / "a.png", size_px=(700, 500))])

    picture = read_pixels(tmp_path / "out" / "a.png")
    assert picture.shape == (500, 700, 3)
    assert tuple(picture[50, 30]) == pick_colours(["red thing", "blue thing"])["red thing"]


def test_a_photo_that_is_stored_sideways_is_drawn_and_measured_upright(tmp_path, predict):
    answer = predict([write_image(tmp_path / "phone.png", size_px=(700, 500), orientation=TURNED_RIGHT)])

    left, top, right, bottom = RED_AT_PX
    assert (answer["images"][0]["width"], answer["images"][0]["height"]) == (500, 700)
    assert answer["annotations"][0]["bbox"] == [500 - bottom, left, bottom - top, right - left]
    assert read_pixels(tmp_path / "out" / "phone.png").shape == (700, 500, 3)


def test_an_unreadable_image_is_told_with_its_reason_and_the_others_are_done(tmp_path, predict, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no image")

    broken_too = tmp_path / "too.jpg"
    broken_too.write_bytes(b"")

    with pytest.raises(ImagesFailed, match="2 of 4 images"):
        predict([write_image(tmp_path / "a.png"), broken, broken_too, write_image(tmp_path / "b.png")])

    said = capsys.readouterr().err
    assert f"{broken}: the file of 16 bytes is no image in a known format" in said
    assert f"{broken_too}: the file of 0 bytes is no image in a known format" in said
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["picture"] for image in answer["images"]] == ["a.png", "b.png"]
    assert [row["image_id"] for row in answer["annotations"]] == [1, 2]
    assert [row["file_name"] for row in answer["failed"]] == [str(broken), str(broken_too)]


def test_nothing_done_is_a_failure_not_a_part(tmp_path, predict):
    (tmp_path / "broken.jpg").write_bytes(b"this is no image")

    with pytest.raises(NothingToDo, match="no image could be used"):
        predict([tmp_path / "broken.jpg"])


def test_a_model_that_does_not_load_is_told_once_and_ends_it(tmp_path):
    for number in range(20):
        write_image(tmp_path / f"{number}.png")
    loads = []

    def load(version):
        loads.append(version)
        raise CheckpointMismatch("3 keys are missing")

    with pytest.raises(CheckpointMismatch, match="3 keys are missing"):
        predict_sources(SETTINGS.model_copy(update={"batch_size": 1}), [str(tmp_path)], "red",
                        write_into(tmp_path / "out"), load=load)  # fmt: skip

    assert len(loads) < 5  # nobody tries all 20 images


def test_images_of_one_name_in_two_folders_are_both_kept(tmp_path, predict):
    wide = write_image(tmp_path / "x" / "a.png", size_px=(700, 500))
    wider = write_image(tmp_path / "y" / "a.png", size_px=(800, 600))

    answer = predict([wide, wider])

    pictures = [tmp_path / "out" / image["picture"] for image in answer["images"]]
    assert [read_pixels(picture).shape for picture in pictures] == [(500, 700, 3), (600, 800, 3)]


def test_an_image_in_the_output_folder_is_never_overwritten(tmp_path, predict):
    source = write_image(tmp_path / "out" / "a.png")
    before = source.read_bytes()

    answer = predict([source])

    assert source.read_bytes() == before
    assert answer["images"][0]["picture"] == "a-2.png"


def test_pictures_never_share_a_name():
    paths = [Path(name) for name in ("x/a.png", "y/a.gif", "z/A.PNG", "a-2.png", "a.jpeg", "w/a.JPG")]

    names = name_pictures([Source(str(path), path.name, path) for path in paths], Path("elsewhere"))

    assert len({name.lower() for name in names}) == len(paths)
    assert names[4:] == ["a.jpg", "a-2.jpg"]


class BeginsSlowly(ColourDetector):
    """While it looks at the first image, others are read."""

    def detect(self, images, prompts, **options):
        if not self.batches:
            time.sleep(0.5)
        return super().detect(images, prompts, **options)


@pytest.mark.parametrize("detector", [BeginsSlowly()], ids=["begins slowly"])
def test_many_images_share_calls_of_the_model(tmp_path, predict, detector):
    images = [write_image(tmp_path / f"{number}.png") for number in range(40)]

    answer = predict(images, batch_size=8)

    assert len(answer["annotations"]) == 40
    assert [image["file_name"] for image in answer["images"]] == list(map(str, images))  # in the order given
    assert max(detector.batches) <= 8
    assert len(detector.batches) < 40


def test_output_that_cannot_be_written_is_told(tmp_path, detector):
    image = write_image(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file where the folder should be")

    with pytest.raises(CannotWrite, match="out cannot be made"):
        predict_sources(SETTINGS, [str(image)], "red", write_into(tmp_path / "out"), load=lambda _: detector)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("red circle . blue square", ("red circle", "blue square")),
        ("red circle, blue_square\nstar.", ("red circle", "blue square", "star")),
        ("Red Circle。blue square、star；ring", ("red circle", "blue square", "star", "ring")),
        ("cat, cat . Cat", ("cat",)),
        ("红绿灯 . car", ("traffic light", "stop light", "car")),
    ],
)
def test_prompts_are_split_and_translated(text, prompts):
    assert read_prompt(text, {"红绿灯": "traffic light, stop light"}).prompts == prompts


@pytest.mark.parametrize("text", ["", " . ", ",,"])
def test_a_prompt_that_names_nothing_is_refused(text):
    with pytest.raises(PromptError, match="names nothing to look for"):
        read_prompt(text, {})


# -- with the real tiny model ----------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path):
    """Three generated pictures with known boxes, as files."""
    made = [make_scene(seed, size_px=(256, 320)) for seed in (9001, 9002, 9003)]
    for number, scene in enumerate(made):
        Image.fromarray(scene.image).save(tmp_path / f"scene-{number}.png")
    return made


def run_cli(monkeypatch, *arguments: str) -> int:
    """The command as a person types it; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["groundcrew", "predict", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def test_the_real_model_finds_the_shapes_of_generated_images(tmp_path, monkeypatch, scenes):
    names = sorted({name for scene in scenes for name in scene.names})
    paths = [str(tmp_path / f"scene-{number}.png") for number in range(3)]

    code = run_cli(monkeypatch, *paths, "--prompt", " . ".join(names), "--out", str(tmp_path / "out"))

    assert code == 0
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    drawn, found_well = 0, 0
    for number, scene in enumerate(scenes, start=1):
        rows = [row for row in answer["annotations"] if row["image_id"] == number]
        for name, known in zip(scene.names, scene.boxes_xyxy_px.tolist(), strict=True):
            found = [_corners(row["bbox"]) for row in rows if names[row["category_id"] - 1] == name]
            drawn += 1
            found_well += max((measure_iou(known, box) for box in found), default=0) > 0.7
    assert found_well >= 0.8 * drawn, "the tiny model misses one of fifty; a wrong label or place would miss all"
    assert read_pixels(tmp_path / "out" / "scene-0.png").shape == (512, 640, 3)


def test_the_command_ends_with_3_when_an_image_failed(tmp_path, monkeypatch, scenes, capsys):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")

    code = run_cli(monkeypatch, str(tmp_path / "broken.png"), str(tmp_path / "scene-0.png"), "--prompt", "red circle",
                   "--out", str(tmp_path / "out"))  # fmt: skip

    assert code == 3
    assert "images_failed: 1 of 2 images could not be used" in capsys.readouterr().err
    assert (tmp_path / "out" / "scene-0.png").exists()
