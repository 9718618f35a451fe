"""Annotated projects in a real Label Studio, and trainers that run one fine-tune of them as processes of their own.

Called by: tests/services/test_finetune_*.py. Must not import: torch.
Example: annotate(label_studio, project, images); run_trainer(settings, ask_for(records, project, iterations=2))
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from contract.finetune import FinetuneJob, FinetuneRecords, new_finetune
from contract.settings import Settings, to_environment
from groundcrew.boxes import LabelledBox
from groundcrew.child import bare_environment
from groundcrew.demo.scenes import DemoImage
from groundcrew.label_studio.client import ImageFile, LabelStudioClient
from tests.services.machine import REPOSITORY

QUICK = {"iterations": 2, "least_iterations": 1, "validations": 1}  #: for a fine-tune that shall only end
TRAINER = (sys.executable, "-m", "tests.fakes.dying_trainer")

Relabel = Callable[[int, str], str]  #: of a task and a label


def as_region(box: LabelledBox, size_px: tuple[int, int], label: str) -> dict:
    """A region as the editor submits it; `size_px` is (width, height)."""
    width_px, height_px = size_px
    left, top, right, bottom = box.xyxy_px
    value = {"x": 100 * left / width_px, "y": 100 * top / height_px, "width": 100 * (right - left) / width_px,
             "height": 100 * (bottom - top) / height_px, "rotation": 0, "rectanglelabels": [label]}  # fmt: skip
    return {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": width_px,
            "original_height": height_px, "image_rotation": 0, "value": value}  # fmt: skip


def upload(label_studio: LabelStudioClient, project: int, images: Sequence[DemoImage],
           broken: Sequence[ImageFile] = ()) -> dict[int, DemoImage]:  # fmt: skip
    """Task id -> what is drawn in it; a broken file counts as the first image."""
    drawn = {image.file.name: image for image in images}
    label_studio.upload_images(project, [*(image.file for image in images), *broken])
    return {task: drawn.get(name, images[0]) for task, name in label_studio.image_names(project).items()}


def submit(label_studio: LabelStudioClient, tasks: Mapping[int, DemoImage],
           relabel: Relabel = lambda task, label: label) -> None:  # fmt: skip
    """An annotation for each task, with all that is drawn in it, under the labels that `relabel` gives."""
    for task, image in tasks.items():
        regions = [as_region(box, image.picture.size, relabel(task, box.label)) for box in image.boxes]
        label_studio.annotate(task, regions)


def annotate(label_studio: LabelStudioClient, project: int, images: Sequence[DemoImage],
             broken: Sequence[ImageFile] = ()) -> None:  # fmt: skip
    """Uploads the images and submits what was drawn in them."""
    submit(label_studio, upload(label_studio, project, images, broken))


def ask_for(records: FinetuneRecords, project: int, base: str = "", **options: str | float) -> FinetuneJob:
    """A fine-tune that waits for a trainer."""
    job = new_finetune(project, "cli", base=base, options=options)
    assert records.request(job) == (job.id, True)
    return job


def run_trainer(settings: Settings, job: FinetuneJob, who: str = "nobody", stages: str = "",
                through: Sequence[str] = (), gpus: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """A trainer that ends with the job, or by kill -9; `through` is a command that starts it.

    `gpus` are UUIDs of simulated ones.
    """
    command = [*through, *TRAINER, job.id, who, stages]
    return subprocess.run(command, timeout=600, check=False, **_surroundings(settings, gpus))


def start_trainer(settings: Settings, job: FinetuneJob, gpus: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen([*TRAINER, job.id, "nobody", ""], **_surroundings(settings, gpus))


def _surroundings(settings: Settings, gpus: Sequence[str]) -> Mapping[str, object]:
    simulated = {"SIMULATED_GPUS": ",".join(gpus)} if gpus else {}
    environment = bare_environment(to_environment(settings) | {"OMP_NUM_THREADS": "1"} | simulated)
    return {"cwd": REPOSITORY, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
