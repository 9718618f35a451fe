"""What the demo found out: predictions against known boxes, as one JSON line and one picture.

Called by: groundcrew/demo/run.py.
Must not import: backend, worker.
Example: report = judge(images, predictions_by_name, ...); report.passed, report.as_json()
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from groundcrew.boxes import Agreement, add_up, box_of_region, compare
from groundcrew.demo.scenes import PAIRS, DemoImage
from groundcrew.label_studio import LABEL_STUDIO_VERSION
from groundcrew.label_studio.client import Prediction
from groundcrew.pictures import draw_boxes, draw_sheet

#: The tiny model finds more; below this something is broken.
LEAST_RECALL = 0.9


@dataclass(frozen=True)
class Report:
    """The last line of `groundcrew demo`; the field names are stable."""

    label_studio: str
    tasks: int
    #: tasks that hold a prediction
    predicted: int
    boxes: int
    recall_iou50: float
    mean_iou: float
    #: predictions beyond one a task
    duplicates: int
    seconds_to_first_box: float
    picture: str

    @property
    def passed(self) -> bool:
        return self.predicted == self.tasks and self.duplicates == 0 and self.recall_iou50 >= LEAST_RECALL

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def judge(
    images: Sequence[DemoImage],
    stored: Sequence[Prediction],
    name_of_task: Mapping[int, str],
    *,
    seconds_to_first_box: float,
    picture_path: Path,
) -> Report:
    """Compares what Label Studio holds with what was drawn, and writes the picture."""
    by_name = {name_of_task[prediction.task]: prediction for prediction in stored}
    agreements = [_agreement(image, by_name.get(image.file.name)) for image in images]
    total = add_up(agreements)
    report = Report(
        label_studio=LABEL_STUDIO_VERSION,
        tasks=len(name_of_task),
        predicted=len(by_name),
        boxes=sum(len(prediction.result) for prediction in by_name.values()),
        recall_iou50=round(total.recall, 3),
        mean_iou=round(total.mean_iou, 3),
        duplicates=sum(count - 1 for count in Counter(prediction.task for prediction in stored).values()),
        seconds_to_first_box=round(seconds_to_first_box, 1),
        picture=str(picture_path),
    )
    _draw(images, agreements, report, picture_path)
    return report


def _agreement(image: DemoImage, prediction: Prediction | None) -> Agreement:
    regions = prediction.result if prediction else []
    return compare(image.boxes, [box_of_region(region) for region in regions])


def _draw(images: Sequence[DemoImage], agreements: Sequence[Agreement], report: Report, path: Path) -> None:
    pictures = [
        draw_boxes(
            image.picture,
            [*(box for _, box, _ in found.found), *found.extra],
            missed=found.missed,
            labels=[f"{colour} {shape}" for colour, shape in PAIRS],
        )
        for image, found in zip(images, agreements, strict=True)
    ]
    known = sum(len(image.boxes) for image in images)
    subtitle = (
        f"{report.boxes} boxes for {known} known objects: recall {report.recall_iou50:.3f} at IoU 0.5, "
        f"mean IoU {report.mean_iou:.3f}. Missed objects are crossed out in red."
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(pictures, title=f"Groundcrew demo: {report.tasks} images in Label Studio", subtitle=subtitle).save(path)
