"""Annotations of a real Label Studio -> dataset.json: what annotators do there, and what training gets.

Called by: pytest.
Must not import: backend, mocks of any kind.
Example: .venv/bin/python -m pytest tests/services/test_export.py
"""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from label_studio_sdk import LabelStudio as Sdk
from PIL import Image

from contract.errors import JobCancelled, LabelConfigError, LabelStudioRefused, TrainingDataError
from contract.labels import read_label_config
from contract.settings import read_settings
from tests.fakes.images import plain_image
from worker.dataset import Dataset, LabelledBox, SkippedTask
from worker.export import export_dataset
from worker.images import decode_image
from worker.labelstudio import LabelStudio

LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="circle"/><Label value="红绿灯" alias="traffic_light"/><Label value="unused"/>
  </RectangleLabels>
  <PolygonLabels name="outline" toName="image"><Label value="circle"/></PolygonLabels>
</View>
"""
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "brown"]
SIZE_PX = (64, 48)
QUARTER_PCT = {"x": 25.0, "y": 25.0, "width": 50.0, "height": 50.0, "rotation": 0}
QUARTER_PX = (16.0, 12.0, 32.0, 24.0)


def box(label: str, place_pct: dict = QUARTER_PCT, *, size_px=SIZE_PX, kind="rectanglelabels", control="label") -> dict:
    """A region as the editor submits it."""
    size = {"original_width": size_px[0], "original_height": size_px[1], "image_rotation": 0}
    place = {"from_name": control, "to_name": "image", "type": kind}
    return {**place, **size, "value": {**place_pct, kind: [label]}}


def polygon(label: str) -> dict:
    return box(
        label, {"points": [[10, 10], [50, 10], [30, 60]], "closed": True}, kind="polygonlabels", control="outline"
    )


@pytest.fixture(scope="module")
def sdk(label_studio_server, label_studio_token) -> Iterator[Sdk]:
    with httpx.Client(timeout=60) as http:
        yield Sdk(base_url=label_studio_server.url, api_key=label_studio_token, httpx_client=http)


@pytest.fixture(scope="module")
def settings(label_studio_server, label_studio_token):
    return read_settings({"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token})


@pytest.fixture(scope="module")
def client(settings) -> Iterator[LabelStudio]:
    """Label Studio as workers see it."""
    with closing(LabelStudio(settings)) as connection:
        yield connection


@pytest.fixture
def project(make_project) -> int:
    return make_project(LABEL_CONFIG)


@pytest.fixture
def upload(label_studio, project):
    """Uploads small images, each of its own colour, and returns the ids of their tasks in order."""

    def upload_images(count: int) -> list[int]:
        images = [plain_image(f"{i}.png", colour=COLOURS[i], size_px=SIZE_PX) for i in range(count)]
        label_studio.upload_images(project, images)
        return sorted(label_studio.image_names(project))

    return upload_images


@pytest.fixture
def export(client, settings, project, tmp_path):
    """Exports the project as a trainer does; progress goes to `export.said`."""

    def run(*, cancelled=lambda: False, **options) -> Dataset:
        label_map, work_dir = read_label_config(LABEL_CONFIG), tmp_path / "work"
        chosen = {"image_dir": tmp_path / "images", **options}
        return export_dataset(client, settings, project, label_map, work_dir, say, cancelled, **chosen)

    def say(done: int, total: int) -> None:
        run.said.append((done, total))

    run.said = []
    return run


def test_everything_annotators_do_ends_where_it_should(sdk, project, upload, export, label_studio, tmp_path):
    # given ten tasks and all kinds of work on them
    tasks = upload(10)
    submit = {
        0: [box("circle"), box("traffic_light", {**QUARTER_PCT, "x": 90.0})],
        1: [box("circle", {**QUARTER_PCT, "rotation": 90})],
        2: [],
        3: [polygon("circle")],
        4: [box("circle"), polygon("circle")],
        5: [box("traffic_light")],
    }
    for number, result in submit.items():
        sdk.annotations.create(tasks[number], result=result)
    sdk.annotations.create(tasks[6], result=[box("circle")], was_cancelled=True)
    sdk.annotations.create(tasks[7], result=[box("circle")], ground_truth=True)
    sdk.annotations.create(tasks[7], result=[box("traffic_light")])
    # nine has a prediction and no annotation
    first = sdk.annotations.create(tasks[8], result=[box("circle")])
    sdk.annotations.create(tasks[8], result=[box("circle"), box("circle", {**QUARTER_PCT, "x": 0.0})])
    sdk.annotations.update(first.id, result=[box("traffic_light")])
    sdk.predictions.create(task=tasks[9], result=[box("circle")], score=0.9, model_version="v1")

    # when
    dataset = export(model_version="tiny-shapes-1")

    # then each image has the boxes of the annotation that counts
    boxes = {image.task_id: image.boxes for image in dataset.images}
    circle, light = LabelledBox(*QUARTER_PX, 1), LabelledBox(*QUARTER_PX, 2)
    cut = LabelledBox(57.6, 12.0, 6.4, 24.0, 2)
    assert boxes == {
        tasks[0]: (circle, pytest.approx(cut)), tasks[1]: (pytest.approx((0.0, 12.0, 16.0, 32.0, 1)),), tasks[2]: (),
        tasks[4]: (circle,), tasks[5]: (light,), tasks[7]: (circle,), tasks[8]: (light,),
    }  # fmt: skip
    assert dataset.skipped == (
        SkippedTask(
            tasks[3], "nothing drawn in it is a usable box: region ignored: polygonlabels, not rectanglelabels"
        ),
    )
    assert dataset.notes == {
        "box cut off at the edge of the image": 2,
        "region ignored: polygonlabels, not rectanglelabels": 1,
        "rotated box replaced by the upright box around it": 1,
        "task with several annotations: one was chosen": 2,
    }
    assert dataset.warnings == ['no box of "unused": it is not learned; annotate images that show it']
    assert {category.name: category.prompts for category in dataset.categories} == {
        "circle": ("circle",), "traffic_light": ("traffic light",), "unused": ("unused",),
    }  # fmt: skip
    # and its files are what was uploaded, each class is in both splits, and nothing is left lying about
    samples = [*dataset.split("train"), *dataset.split("val")]
    assert Dataset.read(tmp_path / "work") == dataset
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["dataset.json"]
    assert {decode_image(sample.image_path.read_bytes(), limit_px=10**6).shape for sample in samples} == {(48, 64, 3)}
    for name in ("circle", "traffic_light"):
        assert all(dataset.counts["boxes"][name].values())
    assert export.said == [(done, 8) for done in range(1, 9)]
    assert sdk.projects.exports.list(project) == []


def test_a_second_export_moves_no_task(sdk, upload, export, label_studio, project):
    # given an export, after which more is annotated
    tasks = upload(10)
    for task in tasks[:5]:
        sdk.annotations.create(task, result=[box("circle")])
    first = export()
    for task in tasks[5:]:
        sdk.annotations.create(task, result=[box("circle")])

    # when
    second = export(kept_splits=first.splits)

    # then
    assert len(second.images) == 10
    assert {task: second.splits[task] for task in first.splits} == first.splits
    assert [image.file_name for image in second.images][:5] == [image.file_name for image in first.images]


def test_images_that_the_base_was_trained_on_never_measure(sdk, upload, export):
    # given a project whose images all trained the base
    tasks = upload(3)
    for task in tasks:
        sdk.annotations.create(task, result=[box("circle")])

    # when / then
    with pytest.raises(
        TrainingDataError, match="none is left to measure with: annotate images that no training has seen"
    ):
        export(kept_splits=dict.fromkeys(tasks, "train"))


def test_an_image_that_cannot_be_used_costs_only_its_task(sdk, project, export, label_studio, settings):
    # given data URIs, one of which is cut, a host that does not answer, and a photo that must be turned
    whole, other = (plain_image("x", colour=colour, size_px=SIZE_PX).content for colour in ("red", "blue"))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE_PX, "green").save(turned, "jpeg", exif=exif)
    uris = [f"data:image/png;base64,{base64.b64encode(data).decode()}"
            for data in (whole, other, whole[:60], turned.getvalue())]  # fmt: skip
    label_studio.import_tasks(project, [*uris, "http://127.0.0.1:9/a.png"])
    tasks = sorted(task.id for task in sdk.tasks.list(project=project))
    for task, size_px in zip(tasks, [SIZE_PX, SIZE_PX, SIZE_PX, SIZE_PX[::-1], SIZE_PX], strict=True):
        sdk.annotations.create(task, result=[box("circle", size_px=size_px)])

    # when
    dataset = export()

    # then
    assert [image.task_id for image in dataset.images] == [tasks[0], tasks[1], tasks[3]]
    assert dataset.images[2].boxes == (LabelledBox(12.0, 16.0, 24.0, 32.0, 1),)
    reasons = {task.task_id: task.reason for task in dataset.skipped}
    assert "image" in reasons[tasks[2]]
    assert "not fetched from port 9" in reasons[tasks[4]]


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "has no submitted annotation: annotate at least 2 images"),
        ([[box("circle")]], r"at least 2 images .* 1 can be used: annotate more$"),
        ([[box("circle")], []], r" 1 can be used"),
        (
            [[polygon("circle")], [polygon("circle")]],
            r" 0 can be used: annotate more \(2 tasks were left out, 2 of them because: nothing",
        ),
    ],
)
def test_too_little_to_train_on_is_an_error_that_says_what_to_annotate(sdk, upload, export, results, sentence):
    tasks = upload(3)
    for task, result in zip(tasks, results, strict=False):
        sdk.annotations.create(task, result=result)

    with pytest.raises(TrainingDataError, match=sentence):
        export()


def test_a_project_that_does_not_exist_is_refused(client, settings, tmp_path):
    label_map = read_label_config(LABEL_CONFIG)

    with pytest.raises(LabelStudioRefused, match="404"):
        export_dataset(client, settings, 999_999, label_map, tmp_path, lambda done, total: None, lambda: False)


def test_a_project_without_boxes_is_refused_before_anything_is_exported():
    with pytest.raises(LabelConfigError, match="RectangleLabels"):
        read_label_config('<View><Image name="i" value="$i"/><Choices name="c" toName="i"/></View>')


def test_a_cancelled_export_leaves_no_dataset_and_no_snapshot(sdk, project, upload, export, tmp_path):
    # given someone who cancels after the third task
    for task in upload(10):
        sdk.annotations.create(task, result=[box("circle")])

    # when
    with pytest.raises(JobCancelled):
        export(cancelled=lambda: len(export.said) >= 3)

    # then
    assert not (tmp_path / "work" / "dataset.json").exists()
    assert sdk.projects.exports.list(project) == []


def test_a_coco_file_of_plain_json(sdk, upload, export, tmp_path):
    for task in upload(2):
        sdk.annotations.create(task, result=[box("circle")])

    export(model_version="tiny-shapes-1")

    content = json.loads((tmp_path / "work" / "dataset.json").read_text())
    assert content["info"]["model_version"] == "tiny-shapes-1"
    assert content["annotations"][0]["bbox"] == list(QUARTER_PX)
    assert {image["split"] for image in content["images"]} == {"train", "val"}
