"""What alerting counts. No device is a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from alerting.alert import Severity

CHANGES = (
    "raised",
    "resolved",
    "acknowledged",
    "flapping",
    "shelved",
    "unshelved",
    "inhibited",
    "uninhibited",
    "changed",
    "stale",
    "retrospective",
)


class AlertMetrics:
    """Alerts, their way to the broker, and how well the alarms serve."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("factoryd_alerts_open", "Open alerts, by severity.", ("severity",), registry=registry)
        self.changes = Counter("factoryd_alert_changes", "New versions of alerts, by change.", ("change",), registry=registry)
        self.waiting = Gauge("factoryd_alert_outbox_waiting", "Versions of alerts not yet published.", registry=registry)
        self.published = Counter("factoryd_alerts_published", "Versions that the broker has acknowledged.", registry=registry)
        self.refused = Counter("factoryd_alerts_refused", "Versions of alerts that the broker refused.", registry=registry)
        self.publish_seconds = Histogram(
            "factoryd_alert_publish_seconds",
            "From the commit of an alert to its PUBACK.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=registry,
        )
        self.reconciled = Counter(
            "factoryd_alert_states_reconciled", "Retained states mended at the broker.", ("mend",), registry=registry
        )
        self.commands = Counter("factoryd_operator_commands", "Commands, by outcome.", ("outcome",), registry=registry)
        self.thresholds = Gauge("factoryd_thresholds", "Thresholds in effect.", registry=registry)
        self.late = Counter("factoryd_alert_late_windows", "Stretches of the past evaluated again.", registry=registry)
        self.chattering = Gauge(
            "factoryd_alarms_chattering", "Thresholds that raise 5 or more alerts a day.", registry=registry
        )
        self.stale = Gauge("factoryd_alarms_stale", "Alerts open for more than 24 hours.", registry=registry)
        self.acknowledge_seconds = Gauge(
            "factoryd_alarms_acknowledge_seconds", "Median time to acknowledge, of the last day.", registry=registry
        )
        for severity in Severity:
            self.open.labels(severity.value)
        for change in CHANGES:
            self.changes.labels(change)
        for mend in ("republished", "cleared"):
            self.reconciled.labels(mend)
        for outcome in ("done", "refused", "malformed"):
            self.commands.labels(outcome)
