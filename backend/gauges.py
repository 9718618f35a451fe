"""What is true now, read from Redis at each scrape: queues, jobs, processes, GPUs, memory.

Called by: backend.metrics. Must not import: Flask, Celery.
Example: `groundcrew_jobs{project="1",state="queued"} 259.0`
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from backend.dispatch import Dispatcher
from backend.watch import Watch
from contract.broker import UNACKED_KEY
from contract.dead_letters import TIMES as DEAD_LETTERS
from contract.delayed import KEY as DELAYED
from contract.finetune import FinetuneRecords
from contract.jobs import EXPAND_QUEUE, WRITE_QUEUE
from contract.leases import is_held
from contract.queue_facts import queue_facts
from contract.record_keys import OPEN_KEY

OLDEST_LOOKED_AT = 1000  #: open jobs; a project with none among the oldest has nothing that is stuck


class Gauges:
    """One scrape. collect() raises redis.RedisError."""

    def __init__(self, watch: Watch, dispatcher: Dispatcher) -> None:
        self._redis = watch.client
        self._processes = watch.processes()
        self._queues = queue_facts(watch.client, watch.shards)
        self._depths = {queue.name: float(queue.depth) for queue in self._queues}
        self._counts = {
            str(project.project_id): dispatcher.records.counts(project.project_id)
            for project in dispatcher.projects.list()
        }
        self._finetunes = FinetuneRecords(watch.client).open_jobs()
        self._trained = [job for job in self._finetunes if is_held(self._redis, str(job["id"]))]

    def collect(self) -> Iterator[Metric]:
        yield _family("queue_messages", "Messages waiting in a queue.", ["queue"], self._depths)
        yield _family("queue_oldest_seconds", "Age of the oldest message of a queue.", ["queue"], self._ages())
        yield _gauge("inflight_messages", "Messages that a process holds.", float(self._redis.hlen(UNACKED_KEY)))
        yield _gauge("delayed_jobs", "Jobs that wait for their next try.", float(self._redis.zcard(DELAYED)))
        yield _gauge("dead_letters", "Messages that were given up and kept.", float(self._redis.zcard(DEAD_LETTERS)))
        yield self._jobs()
        text = "Time since the project's oldest open job moved on; 0 without one."
        yield _family("oldest_open_job_seconds", text, ["project"], self._oldest())
        text = "Work for a role: queued, running, delayed and leased. What scales the role."
        yield _family("outstanding_jobs", text, ["role"], self.outstanding())
        yield _gauge("leased_finetunes", "Fine-tunes that a trainer has in hand.", float(len(self._trained)))
        roles = Counter(str(process["role"]) for process in self._processes)
        yield _family("processes", "Workers and writers that are alive.", ["role"], roles)
        yield from self._workers()
        yield from self._memory()

    def _ages(self) -> dict[str, float]:
        return {queue.name: queue.oldest_s or 0.0 for queue in self._queues}

    def _jobs(self) -> Metric:
        text = "Jobs now queued, running, writing; done, failed, cancelled since the project was first seen."
        family = GaugeMetricFamily("groundcrew_jobs", text, labels=["project", "state"])
        for project, states in self._counts.items():
            for state, count in states.items():
                family.add_metric([project, state], count)
        return family

    def _oldest(self) -> dict[str, float]:
        """Job ids are p<project>-t<task>-<version> (contract.jobs)."""
        ages: dict[str, float] = {}
        for row in self._redis.zrange(OPEN_KEY, 0, OLDEST_LOOKED_AT - 1, withscores=True):
            project = str(row[0]).partition("-")[0].removeprefix("p")
            if project.isdigit():
                ages.setdefault(project, max(0.0, time.time() - float(row[1])))
        return dict.fromkeys(self._counts, 0.0) | ages

    def outstanding(self) -> dict[str, float]:
        """Work by role; Kubernetes scales by it (deploy/kubernetes). Depth alone would stop a running training."""
        states: Counter[str] = Counter()
        for counts in self._counts.values():
            states.update(counts)
        write = states["writing"] + self._depths[WRITE_QUEUE] + self._depths[EXPAND_QUEUE]
        return {"predict": states["queued"] + states["running"], "write": write, "train": len(self._finetunes)}

    def _workers(self) -> Iterator[Metric]:
        """What each process says of itself with its heartbeat."""
        yield self._said("worker_images", "Images a living worker looked at since its start.", "images")
        yield self._said("worker_busy_seconds", "How long the running detect call has been running.", "busy_s")
        yield self._said("device_memory_used_bytes", "Memory in use on the worker's GPU.", "device_memory_used_bytes")
        yield self._said("device_memory_bytes", "Memory of the worker's GPU.", "device_memory_bytes")
        models = GaugeMetricFamily("groundcrew_loaded_models", "Versions on a worker.", labels=["worker", "model"])
        for process in self._processes:
            loaded = process.get("models")
            for model in loaded if isinstance(loaded, list) else []:
                models.add_metric([str(process["name"]), str(model)], 1)
        yield from (self._leases(), models)

    def _leases(self) -> Metric:
        """Workers have one each, all the time; trainers as many as a training asked for, while it runs."""
        family = GaugeMetricFamily("groundcrew_gpu_leases", "GPUs by who leases them.", labels=["worker", "gpu"])
        for process in self._processes:
            if process.get("gpu"):
                family.add_metric([str(process["name"]), str(process["gpu"])], 1)
        for job in self._trained:
            for gpu in str(job.get("gpus", "")).split(","):
                if gpu:
                    family.add_metric([str(job["worker"]), gpu], 1)
        return family

    def _said(self, name: str, text: str, fact: str) -> Metric:
        values = {str(process["name"]): process.get(fact) for process in self._processes}
        numbers = {worker: value for worker, value in values.items() if isinstance(value, int | float)}
        return _family(name, text, ["worker"], numbers)

    def _memory(self) -> Iterator[Metric]:
        info = self._redis.info("memory")
        yield _gauge("redis_memory_bytes", "Memory that Redis uses.", float(info["used_memory"]))
        yield _gauge("redis_memory_limit_bytes", "Redis's maxmemory; 0 is no limit.", float(info["maxmemory"]))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"groundcrew_{name}", text, value=value)


def _family(name: str, text: str, labels: list[str], values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"groundcrew_{name}", text, labels=labels)
    for label, value in values.items():
        family.add_metric([label], value)
    return family
