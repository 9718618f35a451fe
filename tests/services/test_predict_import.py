"""`groundcrew predict` beside a real Label Studio: what it writes can be imported, and a whole project can be read.

Called by: pytest. Must not import: backend.
Example: .venv/bin/python -m pytest tests/services/test_predict_import.py
"""

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from contract.settings import Settings, read_settings
from groundcrew.boxes import box_of_region, measure_iou
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.predict import predict_project, predict_sources
from groundcrew.predict_output import Output
from tests.fakes.colour_detector import ColourDetector

RED_AT_PX = (30, 20, 70, 80)  # left, top, right, bottom
CONFIG = """<View><Image name="photo" value="$picture"/>
<RectangleLabels name="box" toName="photo" tile="0"><Label value="rot" alias="red_thing"/></RectangleLabels></View>"""


class QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is read by people."""


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two pictures with a red rectangle at RED_AT_PX."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b 2.png"):
        image = Image.new("RGB", (160, 100), "white")
        image.paste((255, 0, 0), RED_AT_PX)
        image.save(folder / name)
    return folder


@pytest.fixture
def photos_url(photos) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietServer, directory=photos))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(label_studio_server, label_studio_token) -> Settings:
    """Any model will do where the detector is a fake; the files are never read."""
    return read_settings(
        {"LABEL_STUDIO_URL": label_studio_server.url, "LABEL_STUDIO_API_KEY": label_studio_token},
        config_file="colours.py", checkpoint_file="colours-0123abcd.pth",
    )  # fmt: skip


@pytest.fixture
def output(tmp_path) -> Output:
    return Output.read(tmp_path / "out", "label-studio,pictures", "")


def import_tasks(label_studio: LabelStudioClient, output: Output, make_project) -> int:
    """What a person does with the two files; returns the project."""
    project = make_project((output.out_dir / "label-config.xml").read_text())
    label_studio._post(f"/api/projects/{project}/import", json=json.loads((output.out_dir / "tasks.json").read_text()))
    return project


def test_tasks_with_embedded_images_and_their_boxes_are_imported(label_studio, make_project, photos, output, settings):
    predict_sources(settings, [str(photos)], "red thing", output, load=lambda _: ColourDetector())

    project = import_tasks(label_studio, output, make_project)

    predictions = label_studio.predictions(project)
    assert [len(prediction.result) for prediction in predictions] == [1, 1]
    assert all(prediction.model_version.startswith("colours-0123abcd.") for prediction in predictions)
    (region,) = predictions[0].result
    assert region["value"]["rectanglelabels"] == ["red thing"]
    assert measure_iou(box_of_region(region).xyxy_px, RED_AT_PX) > 0.99
    task = label_studio.open_task(predictions[0].task)
    assert task["data"]["image"].startswith("data:image/png;base64,")


def test_images_behind_addresses_keep_them(label_studio, make_project, photos_url, output, settings):
    predict_sources(settings, [f"{photos_url}/a.png", f"{photos_url}/b%202.png"], "red", output,
                    load=lambda _: ColourDetector())  # fmt: skip

    project = import_tasks(label_studio, output, make_project)

    assert sorted(path.name for path in output.out_dir.glob("*.png")) == ["a.png", "b 2.png"]
    tasks = [label_studio.open_task(prediction.task) for prediction in label_studio.predictions(project)]
    assert {task["data"]["image"] for task in tasks} == {f"{photos_url}/a.png", f"{photos_url}/b%202.png"}


def test_a_project_is_predicted_for_its_own_labels(label_studio, make_project, photos_url, output, settings):
    asked = make_project(CONFIG)
    rows = [{"picture": f"{photos_url}/a.png", "note": "keep me"}, {"picture": f"{photos_url}/b%202.png"}]
    label_studio._post(f"/api/projects/{asked}/import", json=rows)
    trusting = settings.model_copy(update={"image_private_hosts": "127.0.0.1"})

    summary = predict_project(trusting, asked, output, None, load=lambda _: ColourDetector())

    assert (summary["images"], summary["boxes"]) == (2, 2)
    assert label_studio.predictions(asked) == [], "nothing is sent to Label Studio"
    tasks = json.loads((output.out_dir / "tasks.json").read_text())
    assert [task["data"] for task in tasks] == rows
    project = import_tasks(label_studio, output, make_project)
    (region,) = label_studio.predictions(project)[0].result
    assert (region["from_name"], region["value"]["rectanglelabels"]) == ("box", ["red_thing"])
