"""Metrics of the process itself, of its health, and those asked of the pipeline at each scrape."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from console.health import Health, State
from ingest.metrics import IngestMetrics


class WatchedPipeline(Protocol):
    """What is asked of the pipeline."""

    @property
    def lag_s(self) -> float:
        """Age of the oldest unacknowledged message, in seconds."""
        ...

    @property
    def in_flight(self) -> int:
        """Readings received and not yet settled."""
        ...


def register_process_metrics(registry: CollectorRegistry, program_version: str) -> None:
    """Adds memory, CPU, file descriptors, the Python version, and our own version."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    Info("factoryd_build", "The running program.", registry=registry).info({"version": program_version})


def installed_version() -> str:
    """Returns the version of the installed package; "unknown" in a source tree that is not installed."""
    try:
        return version("factoryd")
    except PackageNotFoundError:
        return "unknown"


def metric_total(metric: Counter | Gauge) -> float:
    """Returns the present value, summed over all labels."""
    samples = (sample for family in metric.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if not sample.name.endswith("_created"))


@contextmanager
def watch_pipeline(metrics: IngestMetrics, pipeline: WatchedPipeline) -> Iterator[None]:
    """Lets lag and readings in flight be asked of `pipeline`; 0 again at the end, when another may take its place."""
    metrics.lag.set_function(lambda: pipeline.lag_s)
    metrics.in_flight.set_function(lambda: pipeline.in_flight)
    try:
        yield
    finally:
        metrics.lag.set_function(lambda: 0.0)
        metrics.in_flight.set_function(lambda: 0.0)


class HealthCollector(Collector):
    """`factoryd_state{state}` and `factoryd_ready_check{check}`: 1 for what holds, 0 for what does not."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._health = health
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Called at each scrape."""
        state = GaugeMetricFamily("factoryd_state", "1 for the state the daemon is in.", labels=["state"])
        for known in State:
            state.add_metric([known.value], known is self._health.state)
        checks = GaugeMetricFamily("factoryd_ready_check", "1 while this check of /readyz passes.", labels=["check"])
        for check in self._health.readiness().checks:
            checks.add_metric([check.name], check.ok)
        return [state, checks]
