"""What presence counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from ingest.births import Status
from ingest.liveness import Outcome


class PresenceMetrics:
    """Status messages, and how many devices are online."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reports = Counter(
            "factoryd_presence_reports", "Status messages, by what became of them.", ("outcome",), registry=registry
        )
        self.devices = Gauge("factoryd_presence_devices", "Devices by status.", ("status",), registry=registry)
        self.silent = Counter("factoryd_presence_timeouts", "Devices found silent.", registry=registry)
        self.blind = Gauge(
            "factoryd_presence_blind", "1 while no silence is judged: broker or database away, or backlog.", registry=registry
        )
        self.write_failures = Counter(
            "factoryd_presence_write_failures", "Writes that failed and are tried again.", registry=registry
        )
        for outcome in Outcome:
            self.reports.labels(outcome.value)
        for status in Status:
            self.devices.labels(status.value)
