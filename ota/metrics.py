"""What firmware over the air counts (docs/ota.md). No device is a label; a version is one only where versions are few."""

from collections import Counter as Tally
from datetime import datetime
from operator import attrgetter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ota.deployment import FAULTS, Command, Deployment, Outcome, Phase
from ota.draft import Draft, Kind
from ota.error_codes import CURES
from ota.reports import Verdict
from ota.rollout_metrics import RolloutMetrics

_stepped = attrgetter("phase", "attempt", "sends", "outcome", "error_code")
SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 14_400, 86_400)
TIMEOUTS = ("no_ack", "stalled", "reboot_timeout", "confirm_timeout", "attempt_timeout")


class OtaMetrics:
    """Deployments, reports and commands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deployments = Gauge(
            "factoryd_ota_deployments", "Live deployments, by status and phase.", ("status", "phase"), registry=registry
        )
        self.outcomes = Counter("factoryd_ota_outcomes", "Deployments that ended.", ("outcome",), registry=registry)
        self.failures = Counter(
            "factoryd_ota_failures", "Deployments that failed or were refused, by reason.", ("error_code",), registry=registry
        )
        self.reports = Counter("factoryd_ota_reports", "Reports and hellos, by verdict.", ("verdict",), registry=registry)
        self.phase_seconds = Histogram(
            "factoryd_ota_phase_seconds", "Time in a phase.", ("phase",), buckets=SECONDS, registry=registry
        )
        self.deployment_seconds = Histogram(
            "factoryd_ota_deployment_seconds", "First command to end.", ("outcome",), buckets=SECONDS, registry=registry
        )
        self.commands = Counter("factoryd_ota_commands", "Commands the broker acknowledged.", ("type",), registry=registry)
        self.resends = Counter("factoryd_ota_resends", "Commands sent again within an attempt.", registry=registry)
        self.retries = Counter("factoryd_ota_retries", "Further attempts, by reason.", ("error_code",), registry=registry)
        self.timeouts = Counter("factoryd_ota_timeouts", "Deadlines that passed, by kind.", ("kind",), registry=registry)
        self.late_success = Counter(
            "factoryd_ota_late_success", "Timed out, and succeeded after all: time-outs are too short.", registry=registry
        )
        self.drift = Counter(
            "factoryd_ota_drift", "Hellos with another version than the last deployment says.", registry=registry
        )
        self.drifted = Gauge(
            "factoryd_ota_drift_devices",
            "Devices that run something else than the version they were last brought to.",
            ("version",),
            registry=registry,
        )
        self.installed = Gauge(
            "factoryd_ota_installed_devices",
            "What runs where; the 200 most common.",
            ("hardware", "version"),
            registry=registry,
        )
        self.url_refreshes = Counter("factoryd_ota_url_refreshes", "Fresh URLs for devices that asked.", registry=registry)
        self.refused = Gauge(
            "factoryd_ota_versions_refused", "Released versions that are not sent, by reason.", ("reason",), registry=registry
        )
        self.rollouts = RolloutMetrics(registry)
        self.outbox = Gauge("factoryd_ota_outbox_waiting", "Commands that the broker has not acknowledged.", registry=registry)
        self.overdue = Gauge(
            "factoryd_ota_overdue", "Deployments five minutes after a deadline that nobody has looked at.", registry=registry
        )
        self.oldest = Gauge("factoryd_ota_queue_oldest_seconds", "Age of the oldest waiting deployment.", registry=registry)
        self.recovery_seconds = Gauge(
            "factoryd_ota_recovery_seconds", "Our last absence, given back to all that was under way.", registry=registry
        )
        self.allow_unsigned = Gauge("factoryd_ota_allow_unsigned", "1 if unsigned firmware is sent.", registry=registry)
        self._start_at_zero()

    def note(self, draft: Draft) -> None:
        """Counts a committed draft."""
        for verdict, count in Tally(draft.verdicts).items():
            self.reports.labels(verdict.value).inc(count)
        self.drift.inc(len(draft.drifted))
        for before, after, kind in draft.moves:
            if _stepped(before) != _stepped(after):  # mere progress is nearly all there is
                self._note_move(before, after, kind)

    def _note_move(self, before: Deployment, after: Deployment, kind: Kind) -> None:
        now = after.phase_since
        if after.phase is not before.phase and before.phase_since is not None and now is not None:
            self.phase_seconds.labels(before.phase.value).observe(_seconds(before.phase_since, now))
        if after.outcome is not before.outcome and after.outcome is not None:
            self._note_end(after)
        if after.attempt > before.attempt and kind is not Kind.HELLO:
            self.retries.labels(_known(after.error_code)).inc()
        if kind is Kind.TIMEOUT and after.error_code in TIMEOUTS and after.error_code != before.error_code:
            self.timeouts.labels(after.error_code).inc()
        if after.resends > before.resends:
            self.resends.inc()
            if after.error_code == "url_expired":
                self.url_refreshes.inc()

    def _note_end(self, after: Deployment) -> None:
        assert after.outcome is not None, "the caller looked"
        self.outcomes.labels(after.outcome.value).inc()
        if after.outcome in FAULTS or after.outcome is Outcome.REJECTED:
            self.failures.labels(_known(after.error_code)).inc()
        if after.outcome is Outcome.LATE_SUCCESS:
            self.late_success.inc()
        if after.dispatched_at is not None and after.completed_at is not None:
            self.deployment_seconds.labels(after.outcome.value).observe(_seconds(after.dispatched_at, after.completed_at))

    def _start_at_zero(self) -> None:
        for outcome in Outcome:
            self.outcomes.labels(outcome.value)
            self.deployment_seconds.labels(outcome.value)
        for verdict in Verdict:
            self.reports.labels(verdict.value)
        for phase in Phase:
            self.phase_seconds.labels(phase.value)
        for command in Command:
            self.commands.labels(command.value)
        for kind in TIMEOUTS:
            self.timeouts.labels(kind)
        for code in (*CURES, *TIMEOUTS, "other"):
            self.retries.labels(code)
            self.failures.labels(code)


def _known(code: str | None) -> str:
    """A device may say any word; only ours become labels."""
    return code if code in CURES or code in TIMEOUTS else "other" if code else "unknown"


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
