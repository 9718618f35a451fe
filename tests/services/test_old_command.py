"""The older template's command with the real label-studio-ml 1.0.9, in an environment that cannot hold our packages.

Called by: pytest. The mapping of its arguments is tested in tests/unit/test_old_arguments.py.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_old_command.py
"""

import base64
import signal
import subprocess
from collections.abc import Iterator

import pytest

from groundcrew.boxes import add_up, box_of_region, compare
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.crew import STOP_GRACE_S
from groundcrew.demo.scenes import DemoImage, make_images, make_label_config
from tests.services.machine import REPOSITORY
from tests.services.old_tool import old_tool_path
from tests.services.waiting import answers, wait_until


@pytest.fixture(scope="module")
def old_path() -> str:
    return old_tool_path()


def start_command(*arguments: str) -> list[str]:
    return ["label-studio-ml", "start", str(REPOSITORY / "backend"), *arguments]


@pytest.fixture(scope="module")
def backend_url(old_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command as its users type it: no token, no Redis, a port."""
    folder = tmp_path_factory.mktemp("old-command")
    port = free_port()
    child = Child.start(
        start_command("--with", "device=cpu", "score_threshold=0.3", "--port", str(port)),
        env=bare_environment({"PATH": old_path}),
        cwd=folder,
        log_path=folder / "log",
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/health"), "the old command to answer", child.log_tail)
        yield url
    finally:
        # Ctrl-C, as a terminal sends it to the whole group: the tool ignores it and waits until the crew has ended.
        child.stop(politely=signal.SIGINT, grace_s=STOP_GRACE_S)


def as_data_uri(image: DemoImage) -> str:
    return "data:image/png;base64," + base64.b64encode(image.file.content).decode()


def test_label_studio_connects_and_an_opened_task_shows_boxes(label_studio, make_project, backend_url):
    """Without a token nothing can be written back, so the boxes come with the answer."""
    images = make_images(3)
    project = make_project(make_label_config())
    backend = label_studio.connect_backend(project, backend_url, title="old command")
    assert backend.state == "CO"
    label_studio.import_tasks(project, [as_data_uri(image) for image in images])
    tasks = sorted(label_studio.image_names(project))

    opened = [label_studio.open_task(task) for task in tasks]

    agreements = [
        compare(image.boxes, [box_of_region(region) for region in task["predictions"][0]["result"]])
        for image, task in zip(images, opened, strict=True)
    ]
    assert add_up(agreements).recall >= 0.85
    assert {prediction.model_version for prediction in label_studio.predictions(project)} == {backend.model_version}


def test_a_setting_that_does_not_exist_is_refused_with_a_sentence(old_path, tmp_path):
    finished = subprocess.run(
        start_command("--with", "checkpoint=a.pth"),
        env=bare_environment({"PATH": old_path}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert "'checkpoint' is not a setting of Groundcrew; did you mean 'checkpoint_file'?" in finished.stderr


def test_without_an_install_it_says_what_to_do(old_path, tmp_path):
    """A clone in which nobody has typed `make install`."""
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "_wsgi.py").write_text((REPOSITORY / "backend" / "_wsgi.py").read_text())

    finished = subprocess.run(
        ["label-studio-ml", "start", "backend", "--with", "device=cpu"],
        env=bare_environment({"PATH": old_path}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert f"run `make install` in {tmp_path}" in finished.stderr
