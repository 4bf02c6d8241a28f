"""What is counted on the way to Alertmanager."""

from prometheus_client import CollectorRegistry, Counter, Gauge

REASONS = ("unreachable", "refused")


class AlertmanagerMetrics:
    """Silent, with NaN, where no Alertmanager is configured."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent = Counter("factoryd_alertmanager_sent", "Alerts that Alertmanager took, repeats included.", registry=registry)
        self.failures = Counter(
            "factoryd_alertmanager_failures",
            "Requests that failed (unreachable: sent again), and alerts that it will not take (refused).",
            ("reason",),
            registry=registry,
        )
        self.up = Gauge(
            "factoryd_alertmanager_up",
            "1 if the last request reached Alertmanager, 0 if not; NaN: none yet.",
            registry=registry,
        )
        self.up.set(float("nan"))
        for reason in REASONS:
            self.failures.labels(reason)
