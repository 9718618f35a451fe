"""How long requests wait: /predict of one task and of a thousand, a typed prompt on an idle crew and on a busy one.

Called by: benchmarks/queue.py. Must not import: backend, worker, torch.
One worker; Label Studio is not there, so nothing is written back meanwhile.
Example: `measure_latency(folder, requests=100)["interactive_idle_p50_ms"]`
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import requests

from benchmarks.crew import BenchCrew, start_crew
from benchmarks.load import as_percentiles, fill_queue, open_queue, predict_body, queue_of, save_pictures, time_s, typed
from benchmarks.sleeping import CALL_S, IMAGE_S

BATCH = 8
BULK_TASKS = 6000  #: half a minute of a full queue
MANY_TASKS = 1000
FIRST_TASK = 1_000_000
DETECTOR_MS = 1000 * (CALL_S + IMAGE_S)
BATCH_MS = 1000 * (CALL_S + BATCH * IMAGE_S)


def measure_latency(folder: Path, *, asked: int = 100, bulk_tasks: int = BULK_TASKS) -> dict[str, float]:
    """Milliseconds of `asked` requests of each kind (a tenth as many of a thousand tasks)."""
    save_pictures(folder)
    environment = {
        "LOCAL_FILES_ROOT": str(folder), "BATCH_SIZE": str(BATCH),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "none",
    }  # fmt: skip
    prepare = partial(fill_queue, tasks=bulk_tasks)
    with start_crew(folder, workers=1, parts=("API",), environment=environment, prepare=prepare) as crew:
        session, numbers = requests.Session(), count(FIRST_TASK)
        figures = _measure_idle(crew, session, numbers, asked)
        figures |= _measure_busy(crew, session, numbers, asked)
    return figures | {"detector_ms": DETECTOR_MS, "full_batch_ms": BATCH_MS}


def _measure_idle(crew: BenchCrew, session: requests.Session, numbers: Iterator[int], asked: int) -> dict[str, float]:
    one = [time_s(lambda: _predict(crew, session, [next(numbers)])) for _ in range(asked)]
    many = [time_s(lambda: _predict(crew, session, _take(numbers))) for _ in range(max(2, asked // 10))]
    idle = [time_s(lambda: _ask(crew, session, next(numbers))) for _ in range(asked)]
    figures = as_percentiles("predict_1", one) | as_percentiles("predict_1000", many)
    figures |= as_percentiles("interactive_idle", idle)
    return figures | {"interactive_idle_over_detector_ms": round(figures["interactive_idle_p50_ms"] - DETECTOR_MS, 1)}


def _measure_busy(crew: BenchCrew, session: requests.Session, numbers: Iterator[int], asked: int) -> dict[str, float]:
    open_queue(crew.settings, crew.client)
    busy = [time_s(lambda: _ask(crew, session, next(numbers))) for _ in range(asked)]
    left = int(crew.client.llen(queue_of(crew.settings)))
    return as_percentiles("interactive_busy", busy) | {"bulk_tasks_left": left}


def _take(numbers: Iterator[int]) -> list[int]:
    return [next(numbers) for _ in range(MANY_TASKS)]


def _predict(crew: BenchCrew, session: requests.Session, tasks: list[int]) -> None:
    session.post(f"{crew.url}/predict", json=predict_body(tasks), timeout=60).raise_for_status()


def _ask(crew: BenchCrew, session: requests.Session, task: int) -> None:
    body = predict_body([task], context=typed("red circle"))
    answer = session.post(f"{crew.url}/predict", json=body, timeout=60)
    answer.raise_for_status()
    assert answer.json()["results"][0]["result"], "an interactive request must be answered with boxes"
