"""A worker moved by hand: takes messages off real Redis queues and runs the real worker.tasks on them, without a model.

Called by: tests/services. Tests decide when a job runs, so that no order of events is left to chance or to sleeping.
Must not import: torch.
Example: `worker.run(worker.take(INTERACTIVE_QUEUE))`
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from contract.broker import all_queues, connect_redis, make_celery, queue_depths
from contract.delayed import Delayed
from contract.errors import GroundcrewError
from contract.jobs import ExpandJob, Prediction, PredictJob, WriteBackJob
from contract.registry import Registry
from contract.results import Results
from contract.settings import Settings
from contract.status import JobRecords
from worker.tasks import Crew, expand, predict

PATIENCE_S = 120  #: for a message that must come
BOX = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "score": 0.9, "value": {}}


@dataclass
class FakePredictor:
    """Finds one box in every image; or fails on those that the test names."""

    registry: Registry
    failures: dict[int, GroundcrewError] = field(default_factory=dict)  #: by task id
    takes_s: float = 0.0

    def predict(self, job: PredictJob) -> Prediction:
        time.sleep(self.takes_s)
        if job.task_id in self.failures:
            raise self.failures[job.task_id]
        region = BOX | {"id": job.id}
        return Prediction(task_id=job.task_id, model_version=job.model_version, score=0.9, result=[region])


class HandWorker:
    """Everything that stands behind the queues of one Redis."""

    def __init__(self, settings: Settings) -> None:
        self.redis: redis.Redis = connect_redis(settings)
        # redis-py's own limit on an answer is 5 s, however long a blocking command may take
        self._redis_patient = redis.Redis.from_url(settings.redis_url, decode_responses=True, socket_timeout=None)
        self._shards = settings.queue_shards
        self.predictor = FakePredictor(Registry(settings))
        self.delayed = Delayed(self.redis)
        self.crew = Crew(
            app=make_celery(settings),
            records=JobRecords(self.redis, failed_memory_s=settings.failed_memory_s),
            results=Results(self.redis),
            delayed=self.delayed,
            shards=settings.queue_shards,
            name="by-hand",
        )
        self.crew = replace(self.crew, predictor=self.predictor)  # type: ignore[arg-type]

    def take(self, *queues: str) -> dict[str, Any]:
        """The next message of the given queues (of all, if none is given), as the keyword argument `job`."""
        names = list(queues) or all_queues(self._shards)
        found = self._redis_patient.brpop(names, timeout=PATIENCE_S)
        assert found is not None, f"no message came on {names}"
        _, keyword_arguments, _ = json.loads(json.loads(found[1])["body"])
        return keyword_arguments["job"]

    def run(self, message: dict[str, Any], **changes: object) -> PredictJob:
        """Run a predict message as a worker would."""
        job = PredictJob.model_validate(message | changes)
        predict(self.crew, job)
        return job

    def expand(self, message: dict[str, Any]) -> ExpandJob:
        job = ExpandJob.model_validate(message)
        expand(self.crew, job)
        return job

    def written(self) -> list[WriteBackJob]:
        """Write-backs that were sent, taken off the queue."""
        return [WriteBackJob.model_validate(self.take("write")) for _ in range(self.depths()["write"])]

    def depths(self) -> dict[str, int]:
        """Waiting messages of each queue that is not empty."""
        found = queue_depths(self.redis, self._shards)
        return {"write": 0} | {name: depth for name, depth in found.items() if depth}

    def wait_for_waiters(self, count: int) -> None:
        """Until so many requests wait for a result in Redis."""
        end = time.monotonic() + PATIENCE_S
        while self.redis.info("clients")["blocked_clients"] < count:
            assert time.monotonic() < end, f"fewer than {count} requests wait"
            time.sleep(0.01)

    def waiting(self) -> int:
        """Waiting messages of all queues."""
        return sum(self.depths().values())
