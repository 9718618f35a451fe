"""A writer that cannot trust its marks stores nothing twice in a real Label Studio, however many it asks for at once.

Called by: pytest. Real Redis and Label Studio. Must not import: torch.
Example: pytest tests/services/test_look_up.py
"""

from collections import Counter

import pytest

from contract.errors import LabelStudioRefused
from contract.results import Results
from contract.status import JobRecords
from groundcrew.demo.scenes import make_label_config
from tests.fakes.jobs import VERSION, write_job
from tests.services.test_store import prediction
from worker import writer
from worker.writer import Writer

KINDS = ("stored", "missing", "deleted", "of another version", "both versions", "to be replaced", "does not fit")
TASKS = 4 * len(KINDS)


@pytest.fixture
def project(make_project):
    return make_project(make_label_config())


@pytest.fixture
def tasks(label_studio, project):
    """Task ids by kind."""
    label_studio.import_tasks(project, [f"http://images.invalid/{n}.png" for n in range(TASKS)])
    numbers = sorted(label_studio.image_names(project))
    return {kind: numbers[first :: len(KINDS)] for first, kind in enumerate(KINDS)}


@pytest.mark.parametrize("at_once", [1, 3, writer.LOOK_UP])
def test_each_job_has_the_same_end_however_many_are_looked_up_at_once(
    client, connection, label_studio, project, tasks, at_once, monkeypatch
):
    # given jobs from before Redis was started, and tasks in every state
    monkeypatch.setattr(writer, "LOOK_UP", at_once)
    known = [(VERSION, "stored"), ("old", "of another version"), (VERSION, "both versions"), ("old", "both versions"),
             ("old", "to be replaced")]  # fmt: skip
    connection.store(project, [prediction(task, version=version) for version, kind in known for task in tasks[kind]])
    label_studio.delete_tasks(project, tasks["deleted"])
    kinds = [kind for _ in range(TASKS // len(KINDS)) for kind in KINDS]
    turns = {kind: iter(tasks[kind]) for kind in KINDS}
    jobs = [make_job(project, next(turns[kind]), kind) for kind in kinds]

    # when
    ends = Writer(connection, Results(client), JobRecords(client, failed_memory_s=600)).write(project, jobs)

    # then each has its end, and each task its prediction once
    refused = {"deleted", "does not fit"}
    assert [isinstance(end, LabelStudioRefused) for end in ends] == [kind in refused for kind in kinds], ends
    assert [end for end in ends if end is not None and not isinstance(end, LabelStudioRefused)] == []
    expected = {kind: {VERSION: 1} for kind in KINDS} | {kind: {} for kind in refused}
    expected |= {kind: {VERSION: 1, "old": 1} for kind in ("of another version", "both versions")}
    stored = Counter((one.task, one.model_version) for one in label_studio.predictions(project))
    for kind, numbers in tasks.items():
        held = [{version: n for (task, version), n in stored.items() if task == number} for number in numbers]
        assert held == [expected[kind]] * len(numbers), kind


def make_job(project, task_id, kind):
    label = "no such label" if kind == "does not fit" else "red circle"
    return write_job(
        task_id, project_id=project, prediction=prediction(task_id, label, version=VERSION), asked_at_s=1.0,
        replaces="old" if kind == "to be replaced" else "",
    )  # fmt: skip
