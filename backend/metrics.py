"""Numbers for Prometheus, read from Redis at each scrape: the same from every API process.

Called by: backend.routes. Must not import: Flask, Celery.
Example: `groundcrew_jobs{project="1",state="queued"} 259.0`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from backend.dispatch import Dispatcher
from backend.watch import Watch

__all__ = ["CONTENT_TYPE", "write_metrics"]


def write_metrics(watch: Watch, dispatcher: Dispatcher) -> bytes:
    """The text a scraper reads. With Redis away it holds groundcrew_redis_up 0 and nothing else."""
    registry = CollectorRegistry()
    registry.register(_Numbers(watch, dispatcher))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, watch: Watch, dispatcher: Dispatcher) -> None:
        self._watch = watch
        self._dispatcher = dispatcher

    def collect(self) -> Iterable[Metric]:
        try:
            families = [self._queues(), self._jobs(), self._processes()]
        except redis.RedisError:
            families = []
        yield GaugeMetricFamily("groundcrew_redis_up", "Whether Redis answers.", value=float(bool(families)))
        yield from families

    def _queues(self) -> Metric:
        family = GaugeMetricFamily("groundcrew_queue_messages", "Messages waiting in a queue.", labels=["queue"])
        for queue, depth in self._watch.queues().items():
            family.add_metric([queue], depth)
        return family

    def _jobs(self) -> Metric:
        text = "Jobs now queued, running, writing; done, failed, cancelled since the project was first seen."
        family = GaugeMetricFamily("groundcrew_jobs", text, labels=["project", "state"])
        for project in self._dispatcher.projects.list():
            for state, count in self._dispatcher.records.counts(project.project_id).items():
                family.add_metric([str(project.project_id), state], count)
        return family

    def _processes(self) -> Metric:
        family = GaugeMetricFamily("groundcrew_processes", "Workers and writers that are alive.", labels=["role"])
        for role, count in Counter(str(process["role"]) for process in self._watch.processes()).items():
            family.add_metric([role], count)
        return family
