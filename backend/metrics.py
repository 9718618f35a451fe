"""Numbers for Prometheus: what is true now, and what all processes have counted. The same from every API process.

Called by: backend.routes. Must not import: Flask, Celery.
Example: `groundcrew_images_total{model="tiny-shapes-1"} 512.0`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from backend.dispatch import Dispatcher
from backend.gauges import Gauges
from backend.watch import Watch
from contract.meters import COUNTERS, HISTOGRAMS, INFINITY, Counter, Histogram, Sample, read_sums

__all__ = ["CONTENT_TYPE", "outstanding", "write_metrics"]


def write_metrics(watch: Watch, dispatcher: Dispatcher) -> bytes:
    """The text a scraper reads. With Redis away it holds groundcrew_redis_up 0 and nothing else."""
    registry = CollectorRegistry()
    registry.register(_Numbers(watch, dispatcher))
    return generate_latest(registry)


def outstanding(watch: Watch, dispatcher: Dispatcher) -> dict[str, float]:
    """Jobs that are queued, running, delayed or leased, by the role that does them. Raises redis.RedisError."""
    return Gauges(watch, dispatcher).outstanding()


class _Numbers(Collector):
    def __init__(self, watch: Watch, dispatcher: Dispatcher) -> None:
        self._watch = watch
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        try:
            families = [*Gauges(self._watch, self._dispatcher).collect(), *_counted(self._watch)]
        except redis.RedisError:
            families = []
        yield GaugeMetricFamily("groundcrew_redis_up", "Whether Redis answers.", value=float(bool(families)))
        yield from families


def _counted(watch: Watch) -> Iterator[Metric]:
    watch.push_counts()
    sums = read_sums(watch.client)
    yield from (_counter_family(counter, sums) for counter in COUNTERS)
    yield from (_histogram_family(histogram, sums) for histogram in HISTOGRAMS)


def _counter_family(counter: Counter, sums: Mapping[Sample, float]) -> Metric:
    family = CounterMetricFamily(counter.name, counter.text, labels=counter.labels)
    found = {sample[1:]: value for sample, value in sums.items() if sample[0] == counter.name}
    for labels, value in sorted(({(zero,): 0.0 for zero in counter.zeros} | found).items()):
        family.add_metric(labels, value)
    return family


def _histogram_family(histogram: Histogram, sums: Mapping[Sample, float]) -> Metric:
    """Redis holds each bucket by itself; Prometheus wants each to hold the ones below it."""
    family = HistogramMetricFamily(histogram.name, histogram.text, labels=histogram.labels)
    name = histogram.name
    for labels in sorted({sample[1:] for sample in sums if sample[0] == f"{name}_sum"}):
        below, buckets = 0.0, []
        for bound in (*map(str, histogram.bounds), INFINITY):
            below += sums.get((f"{name}_bucket", *labels, bound), 0.0)
            buckets.append((bound, below))
        family.add_metric(labels, buckets, sum_value=sums[(f"{name}_sum", *labels)])
    return family
