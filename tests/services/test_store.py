"""Predictions reach a real Label Studio by either of its endpoints, with the same rules, and are found there again."""

from contextlib import closing

import pytest

from contract.errors import LabelStudioRefused, LabelStudioUnreachable
from contract.jobs import Prediction
from contract.settings import read_settings
from groundcrew.demo.scenes import make_label_config
from tests.fakes.faulty_label_studio import FaultyLabelStudio
from worker.labelstudio import LabelStudio

TASKS = 4
BOX = {
    "id": "a", "from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": 100,
    "original_height": 100, "image_rotation": 0,
    "value": {"x": 1, "y": 1, "width": 10, "height": 10, "rotation": 0, "rectanglelabels": ["red circle"]},
}  # fmt: skip


@pytest.fixture
def project(label_studio):
    project = label_studio.create_project("store", make_label_config())
    label_studio.import_tasks(project, [f"http://images.invalid/{n}.png" for n in range(TASKS)])
    return project


@pytest.fixture
def tasks(label_studio, project):
    return sorted(label_studio.image_names(project))


def prediction(task_id, label="red circle", boxes=1, version="v"):
    box = BOX | {"value": BOX["value"] | {"rectanglelabels": [label]}}
    return Prediction(task_id=task_id, model_version=version, score=0.5, result=[box] * boxes)


@pytest.mark.parametrize("count", [1, 2])
def test_what_fits_is_stored_alone_or_with_others(connection, label_studio, project, tasks, count):
    assert connection.store(project, [prediction(task) for task in tasks[:count]]) == count
    assert sorted(one.task for one in label_studio.predictions(project)) == tasks[:count]
    assert list(connection.versions_of(tasks[0])) == ["v"]


def test_an_image_without_a_box_is_stored_too(connection, label_studio, project, tasks):
    assert connection.store(project, [prediction(tasks[0], boxes=0)]) == 1
    assert [one.result for one in label_studio.predictions(project)] == [[]]


@pytest.mark.parametrize("count", [1, 2])
def test_labels_that_the_project_does_not_know_are_not_stored(connection, label_studio, project, tasks, count):
    assert connection.store(project, [prediction(task, "no such label") for task in tasks[:count]]) == 0
    assert label_studio.predictions(project) == []


def test_what_many_tasks_hold_is_said_at_once(connection, label_studio, project, tasks):
    # given a task with two versions, one with one, one with none, and one that was deleted
    connection.store(project, [prediction(tasks[0]), prediction(tasks[1]), prediction(tasks[0], version="other")])
    label_studio.delete_tasks(project, [tasks[3]])

    # then one request says so, and names no task that was not asked for
    held = connection.versions(project, tasks[:1] + tasks[2:])
    assert {task: set(versions) for task, versions in held.items()} == {tasks[0]: {"v", "other"}, tasks[2]: set()}
    assert {one: connection.versions_of(one) for one in (tasks[0], tasks[2])} == held
    assert connection.versions(project, []) == {}


def test_what_is_deleted_is_of_one_version_and_once_is_enough(connection, label_studio, project, tasks):
    connection.store(project, [prediction(tasks[0]), prediction(tasks[0], version="other"), prediction(tasks[1])])
    ids = connection.versions(project, tasks)[tasks[0]]["v"]
    connection.delete(ids)
    connection.delete(ids)  # as where someone was faster
    assert connection.versions(project, tasks[:2]).keys() == set(tasks[:2])
    assert [list(connection.versions_of(task)) for task in tasks[:2]] == [["other"], ["v"]]


def test_asking_what_tasks_hold_asks_no_backend_for_boxes(connection, label_studio, project, tasks, stub_backend):
    label_studio.connect_backend(project, stub_backend.url, title="stub")
    label_studio.predict_automatically(project)
    assert connection.versions(project, tasks) == {task: {} for task in tasks}
    assert stub_backend.bodies("/predict") == []


@pytest.mark.parametrize("count", [0, 1])
def test_an_unknown_task_is_refused(connection, label_studio, project, tasks, count):
    with pytest.raises(LabelStudioRefused):
        connection.store(project, [*[prediction(task) for task in tasks[:count]], prediction(10**8)])
    assert label_studio.predictions(project) == []


@pytest.mark.parametrize("ask", [
    lambda connection: connection.versions(1, [1, 2]),
    lambda connection: connection.store(1, [prediction(1), prediction(2)]),
    lambda connection: connection.versions_of(1),
])  # fmt: skip
def test_a_token_that_ended_early_fails_one_request(ask):
    with FaultyLabelStudio.start() as fake:
        known = {"LABEL_STUDIO_URL": fake.url, "LABEL_STUDIO_API_KEY": fake.personal_token}
        with closing(LabelStudio(read_settings(known))) as connection:
            ask(connection)
            fake.forget_tokens()
            with pytest.raises(LabelStudioUnreachable, match="401"):
                ask(connection)
            ask(connection)
