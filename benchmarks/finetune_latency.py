"""How long an annotator waits for the boxes of a typed prompt, beside a fine-tune and without one.

Called by `groundcrew bench finetune-latency`. Must not import: backend, torch.
A real crew with the tiny model, and a real training, which is stopped (SIGSTOP) for the idle half of each round: so
idle and training answers come from the same minutes. Example: `measure(say=print)["ratio_p95"]`
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import redis
import requests

from benchmarks.crew import BenchCrew, start_crew, wait_until
from contract.broker import make_celery, send
from contract.finetune import FinetuneJob, FinetuneRecords, new_finetune
from contract.settings import Settings
from groundcrew.demo.scenes import DemoImage, make_images, make_label_config
from worker.dataset import Category, Dataset, DatasetImage, DatasetInfo, LabelledBox
from worker.stages import BASE_FILE, work_directory

PROJECT = 1
PROJECT_IMAGES = 24
FIRST_SEED = 970_000
ROUNDS, REQUESTS = 10, 20  #: of each kind in a round
PAUSE_S = 0.1  #: between two requests: an annotator's are seldom closer
TRAINING_DEADLINE_S, CANCEL_DEADLINE_S = 120.0, 20.0
ENDLESS = {"iterations": 10**6, "time_limit_s": 3600, "validations": 1}  #: for a training that outlasts the requests
DEFAULTS = {"TORCH_THREADS": "0"}  #: as users run it; other benchmarks of the crew take one thread
PROMPT = "red circle"


def measure(say: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds from POST to boxes, idle and beside a training; ratio_p95 is the price of the training."""
    with tempfile.TemporaryDirectory(prefix="groundcrew-bench-") as name:
        folder = Path(name)
        project = Project(make_images(PROJECT_IMAGES, first_seed=FIRST_SEED), folder / "images",
                          new_finetune(PROJECT, "cli", base="tiny-shapes-1", options=ENDLESS))  # fmt: skip
        environment = {"MODEL_DIR": str(folder / "models"), "LOCAL_FILES_ROOT": str(project.image_dir)} | DEFAULTS
        parts = ("API", "writer", "trainer")
        with start_crew(folder, workers=1, detector="tiny", parts=parts, environment=environment,
                        prepare=project.queue) as crew:  # fmt: skip
            return _measure_crew(crew, project, say)


@dataclass(frozen=True)
class Project:
    """Annotated images, and the fine-tune that learns from them."""

    images: list[DemoImage]
    image_dir: Path
    job: FinetuneJob

    def queue(self, settings: Settings, client: redis.Redis) -> None:
        """Queue the fine-tune with its annotations exported already, so that no Label Studio is needed."""
        self.image_dir.mkdir()
        for image in self.images:
            (self.image_dir / image.file.name).write_bytes(image.file.content)
        work = work_directory(settings, self.job.id)
        work.mkdir(parents=True)
        make_dataset(self.images, self.image_dir).write(work)
        (work / BASE_FILE).write_text(self.job.base)
        FinetuneRecords(client).request(self.job)
        send(make_celery(settings, publish_only=True), [self.job], shards=settings.queue_shards)


def make_dataset(images: list[DemoImage], image_dir: Path) -> Dataset:
    """What an export of the annotated images would be: every fifth one measures."""
    names = sorted({box.label for image in images for box in image.boxes})
    rows = []
    for number, image in enumerate(images):
        corners = [(*box.xyxy_px, 1 + names.index(box.label)) for box in image.boxes]
        boxes = tuple(LabelledBox(x1, y1, x2 - x1, y2 - y1, category) for x1, y1, x2, y2, category in corners)
        split = "train" if number % 5 else "val"
        rows.append(DatasetImage(number, image.file.name, *image.picture.size, split, boxes))
    categories = tuple(Category(number, name, (name,)) for number, name in enumerate(names, start=1))
    info = DatasetInfo(PROJECT, datetime.now(UTC).isoformat(timespec="seconds"), "tiny-shapes-1", "")
    return Dataset(info, categories, tuple(rows), image_dir, {}, ())


def _measure_crew(crew: BenchCrew, project: Project, say: Callable[[str], None]) -> dict[str, float]:
    job_id, records = project.job.id, FinetuneRecords(crew.client)
    say("waiting for the training to begin ...")
    wait_until(lambda: "iteration" in records.get(job_id), TRAINING_DEADLINE_S, "the start of the training")
    idle_ms: list[float] = []
    training_ms: list[float] = []
    trained_s, first = 0.0, _updates(records, job_id)
    for number in range(ROUNDS):
        with stopped(_process_of(crew, job_id)):
            idle_ms += _ask(crew, project)
        began_s = time.monotonic()
        training_ms += _ask(crew, project)
        trained_s += time.monotonic() - began_s
        medians = [statistics.median(values) for values in (idle_ms, training_ms)]
        say(f"round {number + 1} of {ROUNDS}: idle {medians[0]:.0f} ms, training {medians[1]:.0f} ms (medians)")
    pace = (_updates(records, job_id) - first) / trained_s
    records.cancel_request(job_id)
    wait_until(lambda: records.get(job_id)["state"] == "cancelled", CANCEL_DEADLINE_S, "the end of the training")
    return {**summarise(idle_ms, training_ms), "updates_per_s": round(pace, 2), "cores": os.cpu_count() or 0,
            "load_average": round(os.getloadavg()[0], 1)}  # fmt: skip


def summarise(idle_ms: Sequence[float], training_ms: Sequence[float]) -> dict[str, float]:
    """Medians, 95th percentiles and their ratios."""
    rows = {"idle": _percentiles(idle_ms), "training": _percentiles(training_ms)}
    found = {f"{name}_{place}_ms": value for name, row in rows.items() for place, value in row.items()}
    ratios = {f"ratio_{place}": round(rows["training"][place] / rows["idle"][place], 2) for place in ("p50", "p95")}
    return {**found, **ratios, "requests": len(idle_ms) + len(training_ms)}


def _percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    p95 = statistics.quantiles(values_ms, n=20)[-1]
    return {"p50": round(statistics.median(values_ms), 1), "p95": round(p95, 1)}


def _ask(crew: BenchCrew, project: Project) -> list[float]:
    """Milliseconds of each of REQUESTS answers."""
    taken_ms = []
    for number in range(REQUESTS):
        time.sleep(PAUSE_S)
        body = _body(project.images[number % len(project.images)], number)
        began_s = time.perf_counter()
        answer = requests.post(f"{crew.url}/predict", json=body, timeout=60)
        taken_ms.append(1000 * (time.perf_counter() - began_s))
        if not answer.json().get("results"):
            raise RuntimeError(f"no boxes: {answer.text}")
    return taken_ms


def _body(image: DemoImage, number: int) -> dict[str, object]:
    """What Label Studio 1.23.2 sends for a typed prompt."""
    task = {"id": 1 + number, "data": {"image": f"/data/local-files/?d={image.file.name}"}, "annotations": [],
            "predictions": []}  # fmt: skip
    typed = {"id": "p", "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": [PROMPT]}}
    return {"tasks": [task], "project": f"{PROJECT}.1764028800", "label_config": make_label_config(),
            "params": {"login": None, "password": None, "context": {"result": [typed]}}}  # fmt: skip


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    """A process group that gets no processor time in the block."""
    os.killpg(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process_id, signal.SIGCONT)


def _process_of(crew: BenchCrew, job_id: str) -> int:
    """The process that trains."""
    (trainer,) = crew.parts["trainer"]
    (found,) = (child for child in psutil.Process(trainer.pid).children() if job_id in child.cmdline())
    return int(found.pid)


def _updates(records: FinetuneRecords, job_id: str) -> int:
    return int(str(records.get(job_id)["iteration"]))
