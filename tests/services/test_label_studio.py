"""The client and the server starter against a real Label Studio, with a stub in place of our backend.

Called by: pytest. What our own backend does with these calls is tested elsewhere.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_label_studio.py
"""

import pytest

from contract.errors import LabelStudioRefused
from groundcrew.label_studio.login import LoginError, make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, LabelStudioServer, ServerDidNotStart
from tests.fakes.images import plain_image
from tests.fakes.stub_backend import MODEL_VERSION

LABEL_CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="circle"/><Label value="square"/></RectangleLabels>
</View>
"""


@pytest.fixture
def project(make_project):
    return make_project(LABEL_CONFIG)


@pytest.fixture
def backend(label_studio, project, stub_backend):
    """The stub, connected to the project."""
    return label_studio.connect_backend(project, stub_backend.url, title="stub")


def test_a_connected_backend_is_connected_and_has_its_webhook(label_studio, project, stub_backend, backend):
    assert (backend.state, backend.model_version) == ("CO", MODEL_VERSION)
    assert label_studio.webhook_urls(project) == [f"{stub_backend.url}/webhook"]


def test_a_backend_that_does_not_answer_is_refused_with_label_studios_words(label_studio, project):
    with pytest.raises(LabelStudioRefused, match="400"):
        label_studio.connect_backend(project, "http://127.0.0.1:9", title="nobody")


def test_every_uploaded_image_becomes_a_task_and_keeps_its_name(label_studio, project):
    names = [f"scene-{i:02d}.png" for i in range(60)]  # more than one upload holds

    count = label_studio.upload_images(project, [plain_image(name) for name in names])

    assert count == 60
    assert sorted(label_studio.image_names(project).values()) == names


def test_an_upload_tells_the_backend_which_tasks_are_new(label_studio, project, stub_backend, backend):
    label_studio.upload_images(project, [plain_image("one.png"), plain_image("two.png")])

    (event,) = stub_backend.bodies("/webhook")
    assert event["action"] == "TASKS_CREATED"
    assert {task["id"] for task in event["tasks"]} == set(label_studio.image_names(project))


def test_retrieving_asks_once_for_all_tasks_and_never_again_for_the_same_version(
    label_studio, project, stub_backend, backend
):
    label_studio.upload_images(project, [plain_image(f"{i}.png") for i in range(9)])

    label_studio.retrieve_predictions(project)
    label_studio.retrieve_predictions(project)

    (asked,) = stub_backend.bodies("/predict")
    assert len(asked["tasks"]) == 9
    stored = label_studio.predictions(project)
    assert sorted(prediction.task for prediction in stored) == sorted(label_studio.image_names(project))
    assert {prediction.model_version for prediction in stored} == {MODEL_VERSION}
    assert stored[0].result[0]["value"]["rectanglelabels"] == ["circle"]


def test_retrieving_for_some_tasks_leaves_the_others_alone(label_studio, project, backend):
    label_studio.upload_images(project, [plain_image(f"{i}.png") for i in range(3)])
    chosen = min(label_studio.image_names(project))

    label_studio.retrieve_predictions(project, [chosen])

    assert [prediction.task for prediction in label_studio.predictions(project)] == [chosen]


def test_opening_a_task_without_a_prediction_asks_for_one(label_studio, project, backend):
    label_studio.import_tasks(project, ["http://example.org/a.png"])
    (task,) = label_studio.image_names(project)

    opened = label_studio.open_task(task)

    assert [prediction["model_version"] for prediction in opened["predictions"]] == [MODEL_VERSION]


def test_interactive_boxes_are_returned_and_not_stored(label_studio, project, stub_backend, backend):
    label_studio.import_tasks(project, ["http://example.org/a.png"])
    (task,) = label_studio.image_names(project)
    context = {"result": [{"from_name": "prompt", "type": "textarea", "value": {"text": ["square"]}}]}

    answer = label_studio.annotate_interactively(backend.id, task, context)

    assert answer["data"]["result"][0]["value"]["rectanglelabels"] == ["circle"]
    assert stub_backend.bodies("/predict")[0]["params"]["context"] == context
    assert label_studio.predictions(project) == []


def test_training_reaches_the_backend_as_an_event(label_studio, stub_backend, backend):
    label_studio.start_training(backend.id)

    assert [event["action"] for event in stub_backend.bodies("/webhook")] == ["START_TRAINING"]


def test_new_labels_reach_the_backend_as_an_event(label_studio, project, stub_backend, backend):
    label_studio.set_label_config(project, LABEL_CONFIG.replace("square", "star"))

    assert [event["action"] for event in stub_backend.bodies("/webhook")] == ["PROJECT_UPDATED"]


def test_a_disconnected_backend_leaves_its_predictions_and_its_webhook(label_studio, project, stub_backend, backend):
    label_studio.import_tasks(project, ["http://example.org/a.png"])
    label_studio.retrieve_predictions(project)

    label_studio.disconnect_backend(backend.id)

    assert label_studio.backends(project) == []
    assert len(label_studio.predictions(project)) == 1
    assert label_studio.webhook_urls(project) == [f"{stub_backend.url}/webhook"]


def test_a_wrong_password_is_told(label_studio_server):
    with pytest.raises(LoginError, match="did not accept the password"):
        make_access_token(label_studio_server.url, ADMIN_EMAIL, "wrong")


def test_a_server_that_cannot_start_says_why(label_studio_server, label_studio_venv, tmp_path):
    (tmp_path / "label_studio.sqlite3").write_text("this is not a database, whatever its name says" * 100)

    with pytest.raises(ServerDidNotStart, match="file is not a database"):
        LabelStudioServer.start(venv_dir=label_studio_venv, data_dir=tmp_path, say=print)
