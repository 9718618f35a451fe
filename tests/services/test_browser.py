"""What an annotator sees: a headless Chromium in front of a real Label Studio that our crew labels for.

Called by: pytest. Pictures of each step are kept in tests/out.
Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_browser.py
"""

import pytest

from groundcrew.boxes import LabelledBox, add_up, compare
from groundcrew.demo.scenes import DemoImage, make_images, make_label_config
from tests.services.pages import ShownBox
from tests.services.waiting import wait_for_predictions

IMAGES = make_images(3, first_seed=11)
#: Label Studio keeps full precision; a box that is shown somewhere else than stored is off by more than this.
SHOWN_WITHIN_PCT = 0.01


@pytest.fixture(scope="module")
def project(label_studio, crew):
    """Three images whose boxes came by themselves."""
    project = label_studio.create_project("browser", make_label_config())
    label_studio.connect_backend(project, crew.url, title="groundcrew")
    label_studio.upload_images(project, [image.file for image in IMAGES])
    wait_for_predictions(label_studio, project, len(IMAGES))
    yield project
    label_studio.delete_project(project)


@pytest.fixture(scope="module")
def tasks(label_studio, project) -> dict[int, DemoImage]:
    """Task id -> its image and the boxes that were drawn."""
    images = {image.file.name: image for image in IMAGES}
    return {task: images[name] for task, name in label_studio.image_names(project).items()}


def as_pixels(shown: list[ShownBox], image_px: tuple[int, int]) -> list[LabelledBox]:
    """`image_px` is (width, height)."""
    width, height = image_px[0] / 100, image_px[1] / 100
    return [
        LabelledBox(
            box.label,
            (
                box.x_pct * width,
                box.y_pct * height,
                (box.x_pct + box.width_pct) * width,
                (box.y_pct + box.height_pct) * height,
            ),
        )
        for box in shown
    ]


def test_the_settings_page_shows_the_crew_as_connected(pages, project):
    card = pages.read_backend_card(project, "groundcrew")

    pages.take_picture("1-connected")
    assert card.startswith("Connected")


def test_an_opened_task_shows_what_is_in_the_image(pages, project, tasks):
    agreements = []
    for task, image in tasks.items():
        pages.open_task(project, task)
        shown = as_pixels(pages.regions(), image.picture.size)
        pages.take_picture(f"2-task-{task}")
        agreements.append(compare(image.boxes, shown))
        assert sorted(pages.region_rows()) == sorted(box.label for box in shown)

    total = add_up(agreements)
    assert total.recall >= 0.85, f"missed: {total.missed}"
    assert len(total.extra) <= 1, f"wrong: {total.extra}"
    assert total.mean_iou > 0.75


def test_boxes_are_shown_where_they_are_stored(label_studio, pages, project, tasks):
    for task in tasks:
        (stored,) = (prediction for prediction in label_studio.predictions(project) if prediction.task == task)
        pages.open_task(project, task)

        shown = sorted((box.x_pct, box.y_pct, box.width_pct, box.height_pct) for box in pages.regions())
        values = [region["value"] for region in stored.result]
        expected = sorted((value["x"], value["y"], value["width"], value["height"]) for value in values)
        assert shown == [pytest.approx(place, abs=SHOWN_WITHIN_PCT) for place in expected]


def test_predictions_can_be_retrieved_in_the_data_manager(label_studio, crew, pages, make_project):
    project = make_project(make_label_config())
    label_studio.upload_images(project, [image.file for image in IMAGES])  # before the crew can hear of it
    label_studio.connect_backend(project, crew.url, title="groundcrew")
    assert label_studio.predictions(project) == []

    pages.retrieve_all_predictions(project)

    wait_for_predictions(label_studio, project, len(IMAGES))
    pages.show_prediction_count(project, len(IMAGES))
    pages.take_picture("3-retrieved")


def test_a_typed_prompt_suggests_boxes_and_they_can_be_accepted(pages, project, tasks):
    task, image = next(iter(tasks.items()))
    wanted = image.boxes[0].label
    pages.open_task(project, task)
    before = pages.regions()
    pages.switch_auto_annotation_on()

    suggested = pages.type_prompt(wanted)

    pages.take_picture("4-suggested")
    agreement = compare([box for box in image.boxes if box.label == wanted], as_pixels(suggested, image.picture.size))
    assert (agreement.recall, agreement.extra) == (1.0, ())
    pages.accept_suggestions()
    pages.take_picture("5-accepted")
    assert len(pages.regions()) == len(before) + len(suggested)
