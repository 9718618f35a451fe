"""`groundcrew bench queue`: what the queue costs, part by part, with a detector that sleeps like a GPU.

Called by: groundcrew.bench. Must not import: backend, worker, torch.
Example: `measure_part("latency", folder, say=print)["interactive_idle_p50_ms"]`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cost import measure_cost
from benchmarks.flood import measure_flood
from benchmarks.latency import measure_latency
from benchmarks.scale import measure_scale
from benchmarks.writeback import measure_writeback

WORKERS = (1, 2, 4, 8, 16)
BATCHES = (1, 8)
PARTS = ("scale", "latency", "webhooks", "write", "cost")

Say = Callable[[str], None]


def measure_part(part: str, folder: Path, *, size: float = 1.0, say: Say = lambda text: None) -> dict[str, object]:
    """One of PARTS; `size` scales the number of tasks, for a quick look."""
    if part == "scale":
        return measure_all_scales(folder, WORKERS if size >= 1 else (1, 2), size=size, say=say)
    if part == "latency":
        return dict(measure_latency(folder, asked=max(5, int(100 * size)), bulk_tasks=max(100, int(6000 * size))))
    if part == "webhooks":
        return measure_flood(folder, tasks=max(100, int(100_000 * size)), work_s=max(1.0, 15 * size))
    if part == "cost":
        return measure_cost(folder, tasks=max(100, int(2000 * size)))
    return dict(measure_writeback(folder, tasks=max(20, int(2000 * size))))


def measure_all_scales(folder: Path, workers: Sequence[int], *, size: float, say: Say) -> dict[str, object]:
    """A row for each number of workers and batch limit, and how many times one worker sixteen are."""
    rows = []
    for batch in BATCHES:
        for count in workers:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                tasks = None if size >= 1 else 40 * count
                rows.append(measure_scale(Path(place), workers=count, batch=batch, tasks=tasks))
            say(f"{count} workers, batch limit {batch}: {rows[-1]['images_per_s']:.0f} images/s")
    return {"rows": rows} | {f"ratio_batch_{batch}": _ratio(rows, batch) for batch in BATCHES}


def _ratio(rows: Sequence[dict[str, float]], batch: int) -> float:
    rates = [row["images_per_s"] for row in rows if row["batch_limit"] == batch]
    return round(rates[-1] / rates[0], 2)
