"""What the receivers and the publisher count."""

from prometheus_client import CollectorRegistry, Counter, Gauge

SESSIONS = ("telemetry", "control")


class ReceiverMetrics:
    """One set for both sessions, labelled `session`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ("session",)
        self.connected = Gauge("factoryd_mqtt_connected", "1 while connected and subscribed.", label, registry=registry)
        self.session_present = Gauge(
            "factoryd_mqtt_session_present",
            "1 if the broker had kept our session at the last connect.",
            label,
            registry=registry,
        )
        self.sessions_lost = Counter(
            "factoryd_mqtt_sessions_lost",
            "Connects at which the broker had forgotten our session.",
            label,
            registry=registry,
        )
        self.reconnects = Counter("factoryd_mqtt_reconnects", "Connections that ended or failed.", label, registry=registry)
        self.paused = Gauge("factoryd_mqtt_paused", "1 while back-pressure holds the socket.", label, registry=registry)
        for session in SESSIONS:
            for metric in (self.connected, self.session_present, self.sessions_lost, self.reconnects, self.paused):
                metric.labels(session)


class PublisherMetrics:
    """The connection for everything outgoing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("factoryd_mqtt_publisher_connected", "1 while connected.", registry=registry)
        self.reconnects = Counter("factoryd_mqtt_publisher_reconnects", "Connections that ended or failed.", registry=registry)
        self.published = Counter("factoryd_mqtt_published", "Messages the broker acknowledged.", registry=registry)
        self.failed = Counter(
            "factoryd_mqtt_publish_failures", "Messages not acknowledged, by cause.", ("cause",), registry=registry
        )
        for cause in ("unavailable", "refused"):
            self.failed.labels(cause)
