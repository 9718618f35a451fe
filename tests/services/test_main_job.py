"""The main job against a real Label Studio, a real `groundcrew up` and the tiny model: every task, once, by itself.

Called by: pytest. Must not import: backend, worker.
Example: pytest tests/services/test_main_job.py
"""

from collections import Counter

import pytest
import requests

from groundcrew.demo.scenes import make_images, make_label_config
from tests.fakes.images import plain_image
from tests.services.waiting import wait_for_predictions, wait_until


@pytest.fixture
def connected(label_studio, crew, make_project):
    """Makes a project with this label config that is connected to the crew."""

    def make(label_config=None):
        project = make_project(label_config or make_label_config())
        backend = label_studio.connect_backend(project, crew.url, title="groundcrew")
        assert backend.state == "CO"
        return project

    return make


def predictions_per_task(predictions):
    return Counter(prediction.task for prediction in predictions)


def settled(label_studio, crew, project):
    """The stored predictions, once no job of the project is under way any more."""

    def under_way():
        counts = requests.get(f"{crew.url}/jobs", params={"project": project}, timeout=60).json()["counts"]
        return counts["queued"] + counts["running"] + counts["writing"]

    wait_until(lambda: under_way() == 0, "the last job", crew.log_tail)
    return label_studio.predictions(project)


def test_fifty_imported_images_are_predicted_with_nobody_asking(label_studio, crew, connected):
    project = connected()
    label_studio.upload_images(project, [image.file for image in make_images(50, first_seed=500)])
    wait_for_predictions(label_studio, project, 50)
    assert set(predictions_per_task(settled(label_studio, crew, project)).values()) == {1}


def test_259_tasks_of_one_retrieval_get_exactly_one_prediction_each(label_studio, crew, connected, make_project):
    project = make_project(make_label_config())  # filled before it is connected, so that no webhook predicts
    label_studio.upload_images(project, [plain_image(f"{n}.png") for n in range(259)])
    label_studio.connect_backend(project, crew.url, title="groundcrew")
    label_studio.retrieve_predictions(project)
    label_studio.retrieve_predictions(project)  # impatient people ask twice
    wait_for_predictions(label_studio, project, 259)
    assert predictions_per_task(settled(label_studio, crew, project)) == dict.fromkeys(
        label_studio.image_names(project), 1
    )


def test_tasks_are_asked_again_when_the_labels_change_and_only_then(label_studio, crew, connected):
    project = connected()
    label_studio.upload_images(project, [image.file for image in make_images(3, first_seed=600)])
    first = {p.model_version for p in wait_for_predictions(label_studio, project, 3)}
    assert len(first) == 1

    label_studio.set_label_config(project, make_label_config().replace("<View>", "<View><!-- only looks different -->"))
    label_studio.retrieve_predictions(project)
    assert len(settled(label_studio, crew, project)) == 3, "same labels, same version: nothing to ask"

    label_studio.set_label_config(project, make_label_config([("red", "circle")]))
    label_studio.retrieve_predictions(project)
    wait_until(lambda: len(label_studio.predictions(project)) == 6, "the predictions of the new version")
    per_version = Counter(p.model_version for p in settled(label_studio, crew, project))
    assert sorted(per_version.values()) == [3, 3]
    assert first < set(per_version)


def test_an_unreadable_image_fails_alone_and_its_reason_can_be_looked_up(label_studio, crew, connected):
    project = connected()
    bad = plain_image("broken.png")
    good = plain_image("good.png")
    label_studio.upload_images(project, [type(bad)(bad.name, bad.content[:60], bad.media_type), good])

    def failures():
        found = requests.get(f"{crew.url}/jobs", params={"project": project}, timeout=60).json()
        return found["failures"]

    wait_until(lambda: len(failures()) == 1, "the failure to be listed", crew.log_tail)
    (failure,) = failures()
    job = requests.get(f"{crew.url}/jobs/{failure['id']}", timeout=60).json()
    assert (job["state"], job["code"]) == ("failed", "image_unreadable")
    assert "damaged" in job["reason"]
    names = label_studio.image_names(project)
    stored = wait_for_predictions(label_studio, project, 1)
    assert [names[p.task] for p in stored] == ["good.png"]


def test_an_image_with_nothing_in_it_is_stored_as_an_empty_prediction(label_studio, crew, connected):
    project = connected()
    label_studio.upload_images(project, [plain_image("grey.png", colour="grey")])
    (prediction,) = wait_for_predictions(label_studio, project, 1)
    assert (prediction.result, prediction.score) == ([], 0)


def test_an_opened_task_is_answered_with_boxes_and_stored_once(label_studio, crew, make_project):
    project = make_project(make_label_config())
    label_studio.upload_images(project, [image.file for image in make_images(1, first_seed=700)])
    label_studio.connect_backend(project, crew.url, title="groundcrew")
    (task,) = label_studio.image_names(project)
    opened = label_studio.open_task(task)
    assert len(opened["predictions"]) == 1
    assert opened["predictions"][0]["result"] != []
    assert len(settled(label_studio, crew, project)) == 1
