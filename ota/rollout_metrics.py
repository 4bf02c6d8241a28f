"""What rollouts count (docs/rollouts.md). No device is a label; a rollout is one while it is under way."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from ota.gate import Verdict
from ota.rollout import OVER, Rollout, RolloutStatus, Sending

BLOCKS = ("window", "slot", "rate")


class RolloutMetrics:
    """Rollouts, their stages and their gates."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rollouts = Gauge("factoryd_ota_rollouts", "Rollouts that are not over, by status.", ("status",), registry=registry)
        self.stage = Gauge("factoryd_ota_rollout_stage", "Stage that is under way.", ("rollout",), registry=registry)
        self.ratio = Gauge(
            "factoryd_ota_rollout_stage_ratio",
            "Succeeded and failed devices of the stage, as a part of the reachable ones.",
            ("rollout", "kind"),
            registry=registry,
        )
        self.unreachable = Gauge(
            "factoryd_ota_rollout_stage_unreachable", "Devices of the stage that are not seen.", ("rollout",), registry=registry
        )
        self.slots = Gauge(
            "factoryd_ota_rollout_slots",
            "Devices under way; limit is there if the rollout has one.",
            ("rollout", "kind"),
            registry=registry,
        )
        self.blocked = Gauge(
            "factoryd_ota_rollout_blocked", "1 if a rollout may not send now.", ("rollout", "reason"), registry=registry
        )
        self.decisions = Counter(
            "factoryd_ota_gate_decisions", "Decisions of gates that changed something.", ("verdict",), registry=registry
        )
        for verdict in Verdict:
            self.decisions.labels(verdict.value)
        self.standing([])

    def decided(self, before: Rollout, after: Rollout) -> None:
        """Counts the decision of a committed step."""
        for old, new in zip(before.stages, after.stages, strict=True):
            if new.decided_at != old.decided_at and new.decision is not None:
                self.decisions.labels(new.decision.verdict.value).inc()

    def standing(self, rollouts: Sequence[Rollout]) -> None:
        """Shows how all rollouts stand that are not over."""
        for status in RolloutStatus:
            if status not in OVER:
                self.rollouts.labels(status.value).set(sum(rollout.status is status for rollout in rollouts))
        for gauge in (self.stage, self.ratio, self.unreachable):
            gauge.clear()
        for rollout in rollouts:
            self._stage_of(rollout)

    def sending(self, sending: Sequence[Sending], closed: Mapping[int, str]) -> None:
        """Shows who may send now."""
        self.slots.clear()
        self.blocked.clear()
        for rollout in sending:
            name = str(rollout.id)
            self.slots.labels(name, "used").set(rollout.in_progress)
            if rollout.max_in_progress is not None:
                self.slots.labels(name, "limit").set(rollout.max_in_progress)
            for reason in BLOCKS:
                self.blocked.labels(name, reason).set(closed.get(rollout.id) == reason)

    def _stage_of(self, rollout: Rollout) -> None:
        stage, name = rollout.current, str(rollout.id)
        if stage is None or stage.decision is None:
            return
        reachable = max(1, stage.decision.reachable)
        self.stage.labels(name).set(stage.stage_no)
        self.ratio.labels(name, "success").set(stage.counts.succeeded / reachable)
        self.ratio.labels(name, "error").set(stage.counts.faults / reachable)
        self.unreachable.labels(name).set(stage.counts.unreachable)
