"""Counters and histograms of every process, summed up in Redis: one scrape of the API shows all of them.

Called by: worker, backend (count), contract.heartbeats (pushes), backend.metrics (shows). Must not import: Celery.
Why not a port a process: containers come and go with --scale, and a sum in Redis never falls when one ends, needs no
service discovery, and is the same from every API process. A kill -9 loses what was counted since the last push (3 s).
Example: `with STAGE.time(stage="download"): data = fetch(url)`
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import redis

KEY = "gc:meters"  #: hash: JSON list of a sample's name and label values -> sum over all processes, ever
INFINITY = "+Inf"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

Sample = tuple[str, ...]  #: name, then label values; buckets end with their upper bound


class Tally:
    """What this process counted. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: defaultdict[Sample, float] = defaultdict(float)
        self._pushing = threading.Lock()
        self._pushed: dict[Sample, float] = {}

    def add(self, amounts: Mapping[Sample, float]) -> None:
        with self._lock:
            for sample, amount in amounts.items():
                self._counted[sample] += amount

    def counted(self) -> dict[Sample, float]:
        """All since this process began."""
        with self._lock:
            return dict(self._counted)

    def total(self, name: str) -> float:
        """All that was counted under a name since this process began, whatever the labels."""
        return sum(value for sample, value in self.counted().items() if sample[0] == name)

    def push(self, client: redis.Redis) -> None:
        """Add what is new to the sums in Redis, all or nothing. Raises redis.RedisError; then the next push has it."""
        with self._pushing:
            counted = self.counted()
            with client.pipeline(transaction=True) as pipe:
                for sample, value in counted.items():
                    if value != self._pushed.get(sample, 0.0):
                        pipe.hincrbyfloat(KEY, json.dumps(sample), value - self._pushed.get(sample, 0.0))
                pipe.execute()
            self._pushed = counted


TALLY = Tally()  #: of this process


@dataclass(frozen=True)
class Counter:
    """A number that only grows."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    tally: Tally = field(default=TALLY, repr=False)
    zeros: tuple[str, ...] = ()  #: values of the one label that are shown from the start: a rise needs a zero before it

    def add(self, amount: float = 1, **labels: str) -> None:
        self.tally.add({(self.name, *_values(self.labels, labels)): amount})


@dataclass(frozen=True)
class Histogram:
    """How many observations fell below each of some bounds, and their sum."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = _SECONDS
    tally: Tally = field(default=TALLY, repr=False)

    def observe(self, value: float, **labels: str) -> None:
        values = _values(self.labels, labels)
        bound = next((str(bound) for bound in self.bounds if value <= bound), INFINITY)
        self.tally.add({(f"{self.name}_bucket", *values, bound): 1, (f"{self.name}_sum", *values): value})

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Observe how many seconds the block took, also when it raises."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.observe(time.monotonic() - started_s, **labels)


def _values(names: tuple[str, ...], labels: Mapping[str, str]) -> tuple[str, ...]:
    if set(names) != set(labels):
        raise ValueError(f"labels {sorted(labels)} given, {sorted(names)} expected")
    return tuple(labels[name] for name in names)


def read_sums(client: redis.Redis) -> dict[Sample, float]:
    """The sums over all processes. Raises redis.RedisError."""
    return {tuple(json.loads(sample)): float(value) for sample, value in client.hgetall(KEY).items()}


STAGE = Histogram("groundcrew_stage_seconds", "Time of a job's stage; wait_... is for a place in a batch.", ("stage",))
BATCH = Histogram("groundcrew_batch_images", "Images in one detect call.", bounds=_SIZES)
IMAGES = Counter("groundcrew_images_total", "Images in which boxes were looked for.", ("model",))
MODEL_LOAD = Histogram("groundcrew_model_load_seconds", "Time to load one model version.", ("model",))
FAILURES = Counter("groundcrew_job_failures_total", "Predict jobs that failed for good.", ("code",))
RETRIES = Counter("groundcrew_job_retries_total", "Jobs that will be tried again.", ("code",))
WRITTEN = Counter(
    "groundcrew_predictions_written_total", "Write-backs: stored, or what went wrong.", ("result",), zeros=("stored",)
)
NOTIFIED = Counter(
    "groundcrew_notifications_total", "Outgoing webhooks by what came of a try.", ("result",),
    zeros=("delivered", "retried", "given_up"),
)  # fmt: skip
REQUESTS = Histogram("groundcrew_http_request_seconds", "Time of one request to the API.", ("route", "status"))

COUNTERS = (IMAGES, FAILURES, RETRIES, WRITTEN, NOTIFIED)
HISTOGRAMS = (STAGE, BATCH, MODEL_LOAD, REQUESTS)
