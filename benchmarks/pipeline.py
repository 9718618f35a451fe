"""From "Retrieve Predictions" in a real Label Studio until every task has its boxes: ours and a synchronous backend.

Called by: groundcrew.bench. Must not import: backend, torch.
The two take turns with projects of their own in one Label Studio; medians of several rounds. The synchronous one is
asked for fewer tasks and scaled. Example: `measure_pipeline(folder, detector="sleeping")["ratio"]`
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks.crew import REPOSITORY, BenchCrew, start_crew, wait_until
from benchmarks.labelled import Site, start_label_studio
from benchmarks.load import PICTURES, save_pictures, time_s
from contract.status import JobRecords
from groundcrew.child import Child, bare_environment, free_port
from groundcrew.demo.scenes import make_images

DEADLINE_S = 160.0


@dataclass(frozen=True)
class Round:
    """One run of ours."""

    wall_s: float
    busy_s: float  #: in detect: of the clock for the sleeping detector, of the processor for a model
    first_s: float  #: from the request to Label Studio until the first detect call
    between_s: float  #: from the first detect call until the last has ended
    images_a_call: float
    cpu_s: dict[str, float]


def measure_pipeline(
    folder: Path, *, detector: str = "sleeping", tasks: int = 2000, baseline_tasks: int = 200, rounds: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, object]:  # fmt: skip
    """Seconds of both, their ratio, and the share of our time that was spent in detect.

    `first_task_s` is Label Studio's own: it reads all tasks before it asks for the first. `detector_busy` is a share of
    the whole time, `detector_busy_between` of that between the first detect call and the end of the last.
    """
    pictures = folder / "pictures"
    save_pictures(pictures, _scenes() if detector == "tiny" else ())
    ours, baseline = [], []
    with start_label_studio(folder) as site, _crew_and_baseline(folder, site, detector, pictures) as (crew, url):
        for number in range(rounds):
            ours.append(_run_ours(site, crew, tasks, by_processor=detector == "tiny"))
            baseline.append(_run_baseline(site, url, baseline_tasks) * tasks / baseline_tasks)
            say(f"round {number + 1}: ours {ours[-1].wall_s:.1f} s, synchronous {baseline[-1]:.1f} s")
    return _figures(detector, tasks, ours, baseline)


def _figures(detector: str, tasks: int, ours: list[Round], baseline: list[float]) -> dict[str, object]:
    ours_s, baseline_s = statistics.median(one.wall_s for one in ours), statistics.median(baseline)
    parts = ours[0].cpu_s
    return {
        "detector": detector,
        "tasks": tasks,
        "ours_s": round(ours_s, 2),
        "baseline_s": round(baseline_s, 2),
        "ratio": round(baseline_s / ours_s, 2),
        "detector_busy": round(statistics.median(one.busy_s / one.wall_s for one in ours), 3),
        "detector_busy_between": round(statistics.median(one.busy_s / one.between_s for one in ours), 3),
        "first_task_s": round(statistics.median(one.first_s for one in ours), 2),
        "last_stored_s": round(statistics.median(one.wall_s - one.first_s - one.between_s for one in ours), 2),
        "images_a_call": round(statistics.median(one.images_a_call for one in ours), 2),
        "cpu_s_per_1000_tasks": {
            part: round(1000 / tasks * statistics.median(one.cpu_s[part] for one in ours), 3) for part in parts
        },
        "rounds": len(ours),
    }


def _scenes() -> list[bytes]:
    return [image.file.content for image in make_images(PICTURES)]


@contextmanager
def _crew_and_baseline(folder: Path, site: Site, detector: str, pictures: Path) -> Iterator[tuple[BenchCrew, str]]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.synchronous", detector, str(port), str(pictures),
               str(folder / "baseline.jsonl")]  # fmt: skip
    env = bare_environment({"PYTHONPATH": str(REPOSITORY), "TORCH_THREADS": "1", "MODEL_DIR": str(folder / "models")})
    child = Child.start(command, env=env, cwd=folder, log_path=folder / "baseline.log")
    url = f"http://127.0.0.1:{port}"
    try:
        with start_crew(folder, workers=1, detector=detector, environment=site.environment(pictures)) as crew:
            wait_until(lambda: _answers(url), DEADLINE_S, "the synchronous backend")
            yield crew, url
    finally:
        child.stop()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def _run_ours(site: Site, crew: BenchCrew, tasks: int, *, by_processor: bool) -> Round:
    project = site.make_project(tasks)
    site.client.connect_backend(project, crew.url, title="ours")
    records = JobRecords(crew.client, failed_memory_s=600)
    calls_before, cpu_before = len(crew.calls()), _cpu_s(site, crew)

    def retrieve() -> None:
        site.client.retrieve_predictions(project)
        wait_until(lambda: records.counts(project)["done"] >= tasks, DEADLINE_S, "storing all predictions")

    began_s = time.monotonic()  # of the same clock as the calls
    wall_s = time_s(retrieve)
    cpu_s = {part: now - cpu_before[part] for part, now in _cpu_s(site, crew).items()}
    calls = crew.calls()[calls_before:]
    first_s, last_s = min(call.began_s for call in calls), max(call.ended_s for call in calls)
    stored = site.client.predictions(project)
    assert len({prediction.task for prediction in stored}) == len(stored) == tasks, "one prediction a task"
    busy_s = sum(call.cpu_s if by_processor else call.ended_s - call.began_s for call in calls)
    return Round(wall_s, busy_s, first_s - began_s, last_s - first_s, tasks / len(calls), cpu_s)


def _cpu_s(site: Site, crew: BenchCrew) -> dict[str, float]:
    return crew.cpu_s() | {"Label Studio": site.cpu_s()}


def _run_baseline(site: Site, url: str, tasks: int) -> float:
    project = site.make_project(tasks)
    site.client.connect_backend(project, url, title="synchronous")
    wall_s = time_s(lambda: site.client.retrieve_predictions(project))
    stored = site.client.predictions(project)
    assert len({prediction.task for prediction in stored}) == tasks, "one prediction a task"
    return wall_s
