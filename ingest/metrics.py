"""What ingest counts. In readings: received = stored + merged + duplicate + quarantined + returned + in flight, always."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingest.reading import Reason, Verdict

CLOCK_FAULTS = ("unset", "ahead", "naive")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class IngestMetrics:
    """The accounting identity, and how long things take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Counter("factoryd_ingest_messages", "Telemetry messages received.", registry=registry)
        self.received = Counter("factoryd_ingest_readings_received", "Readings received.", registry=registry)
        self.readings = Counter(
            "factoryd_ingest_readings", "Readings settled, by what became of them.", ("verdict",), registry=registry
        )
        self.in_flight = Gauge(
            "factoryd_ingest_readings_in_flight", "Readings received and not yet settled.", registry=registry
        )
        self.quarantined = Counter("factoryd_ingest_quarantined", "Quarantined readings.", ("reason",), registry=registry)
        self.flooded = Counter(
            "factoryd_ingest_quarantine_flooded", "Quarantined readings beyond the limit: counted, not kept.", registry=registry
        )
        self.ignored_values = Counter("factoryd_ingest_values_ignored", "Values that carry no number.", registry=registry)
        self.ignored_retained = Counter(
            "factoryd_ingest_retained_ignored", "Retained telemetry, which is not stored.", registry=registry
        )
        self.clock = Counter("factoryd_ingest_clock_faults", "Messages with a wrong clock.", ("fault",), registry=registry)
        self.missing = Counter("factoryd_ingest_sequence_missing", "Messages found missing by their seq.", registry=registry)
        self.filled = Counter("factoryd_ingest_sequence_filled", "Missing messages that came late.", registry=registry)
        self.batch_readings = Histogram(
            "factoryd_ingest_batch_readings",
            "Readings per batch.",
            buckets=(1, 10, 100, 1_000, 10_000, 100_000),
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "factoryd_ingest_commit_seconds", "Duration of one transaction.", buckets=SECONDS, registry=registry
        )
        self.delay_seconds = Histogram(
            "factoryd_ingest_delay_seconds", "Oldest message of a batch: receipt to commit.", buckets=SECONDS, registry=registry
        )
        self.retries = Counter("factoryd_ingest_batch_retries", "Batches tried again.", registry=registry)
        self.lag = Gauge("factoryd_ingest_lag_seconds", "Age of the oldest unacknowledged message.", registry=registry)
        for verdict in Verdict:
            self.readings.labels(verdict.value)
        for reason in Reason:
            self.quarantined.labels(reason.value)
        for fault in CLOCK_FAULTS:
            self.clock.labels(fault)
