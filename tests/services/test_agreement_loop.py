"""How good it really is, with a real Label Studio and a real crew: what annotators submit comes back as numbers.

Called by: pytest. Must not import: backend, worker.
Example: pytest tests/services/test_agreement_loop.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from groundcrew.crew import Crew
from groundcrew.demo.scenes import make_images, make_label_config
from groundcrew.label_studio.client import LabelStudioClient, Prediction
from tests.services.waiting import wait_for_predictions, wait_until

Json = dict[str, Any]


@pytest.fixture
def predicted(
    label_studio: LabelStudioClient, crew: Crew, make_project: Callable[[str], int]
) -> Callable[[str, int], tuple[int, list[Prediction]]]:
    """Makes a connected project with images, and returns it with the predictions that the crew stored."""

    def make(label_config: str, images: int) -> tuple[int, list[Prediction]]:
        project = make_project(label_config)
        label_studio.connect_backend(project, crew.url, title="groundcrew")
        label_studio.upload_images(project, [image.file for image in make_images(images, first_seed=4_100)])
        return project, wait_for_predictions(label_studio, project, images)

    return make


def agreement(crew: Crew, project: int) -> list[Json]:
    return requests.get(f"{crew.url}/agreement", params={"project": project}, timeout=60).json()["versions"]


def wait_for_counts(crew: Crew, project: int, **expected: int) -> None:
    def reached() -> bool:
        found = agreement(crew, project)
        return bool(found) and {name: found[0][name] for name in expected} == expected

    wait_until(reached, f"{expected}", lambda: f"{agreement(crew, project)}\n{crew.log_tail()}")


def moved(region: Json, by_pct: float) -> Json:
    return region | {"value": region["value"] | {"x": region["value"]["x"] + by_pct}}


def test_what_annotators_submit_change_and_delete_is_counted(
    label_studio: LabelStudioClient, crew: Crew, predicted: Callable[[str, int], tuple[int, list[Prediction]]]
) -> None:
    # given three images, each with at least two predicted boxes
    project, predictions = predicted(make_label_config(), 3)
    one, two, three = sorted(predictions, key=lambda prediction: prediction.task)
    total = [len(prediction.result) for prediction in (one, two, three)]
    assert min(total) >= 2

    # when one annotator submits an image as it is / then all its boxes are kept
    label_studio.annotate(one.task, one.result)
    wait_for_counts(crew, project, images=1, kept=total[0], moved=0, deleted=0, added=0)
    assert agreement(crew, project)[0]["model_version"] == one.model_version

    # when another one deletes a box of the second image, and moves one of the third by a tenth of its width
    changed = label_studio.annotate(two.task, two.result[1:])
    nudge_pct = three.result[0]["value"]["width"] / 10
    label_studio.annotate(three.task, [moved(three.result[0], nudge_pct), *three.result[1:]])

    # then
    wait_for_counts(crew, project, images=3, kept=sum(total) - 2, moved=1, deleted=1, added=0)

    # when the second one brings the box back / then it is as if it had always been there
    label_studio.change_annotation(changed, two.result)
    wait_for_counts(crew, project, images=3, kept=sum(total) - 1, moved=1, deleted=0)

    # when its annotation is deleted / then it counts no more
    label_studio.delete_annotations(project, [two.task])
    wait_for_counts(crew, project, images=2, kept=total[0] + total[2] - 1, moved=1, deleted=0)


def test_uncertainty_sampling_begins_with_the_image_that_the_model_doubts_most(
    label_studio: LabelStudioClient, predicted: Callable[[str, int], tuple[int, list[Prediction]]]
) -> None:
    # given a project that asks for uncertainty
    xml = make_label_config().replace("<RectangleLabels ", '<RectangleLabels model_score="uncertainty" ')
    project, predictions = predicted(xml, 6)

    # then the score of a prediction is that of its most doubtful box
    for prediction in predictions:
        assert prediction.score == min(region["score"] for region in prediction.result)

    # when Label Studio samples by uncertainty / then it begins there
    label_studio.sample_by_uncertainty(project, predictions[0].model_version)
    assert label_studio.next_task(project) == min(predictions, key=lambda one: one.score or 0).task
