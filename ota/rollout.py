"""PURE. Nouns: a rollout brings one version to many devices, in stages."""

from datetime import datetime
from enum import StrEnum

import msgspec

from ota.gate import Accepted, Counts, Decision, Limits


class RolloutStatus(StrEnum):
    """The words of ota_rollouts.status."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    SOAKING = "soaking"
    PAUSED = "paused"
    ABORTING = "aborting"
    ABORTED = "aborted"
    COMPLETED = "completed"


SENDING = frozenset({RolloutStatus.RUNNING, RolloutStatus.SOAKING})
OVER = frozenset({RolloutStatus.ABORTED, RolloutStatus.COMPLETED})


class StageStatus(StrEnum):
    """The words of ota_rollout_stages.status."""

    PENDING = "pending"
    RUNNING = "running"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ota_rollout_stages, with its deployments counted."""

    stage_no: int
    name: str
    status: StageStatus = StageStatus.PENDING
    started_at: datetime | None = None
    soak_until: datetime | None = None
    decided_at: datetime | None = None
    decision: Decision | None = None
    counts: Counts = Counts()
    """Of the current stage alone."""

    @property
    def accepted(self) -> Accepted | None:
        """What people have said does not count."""
        return self.decision.accepted if self.decision is not None else None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ota_rollouts with its stages. Times are aware UTC, by our clock."""

    id: int
    name: str
    status: RolloutStatus
    stages: tuple[Stage, ...]
    limits: Limits = Limits()
    soak_s: float = 0.0
    on_error: str = "pause"
    on_stage_success: str = "next"
    start_at: datetime | None = None
    end_at: datetime | None = None
    pause_reason: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    live: bool = True
    """Some of its deployments have not ended."""

    @property
    def current(self) -> Stage | None:
        """The first stage that has not passed."""
        return next((stage for stage in self.stages if stage.status is not StageStatus.PASSED), None)


class Sending(msgspec.Struct, frozen=True):
    """A rollout that is under way, and what limits it."""

    id: int
    window: str | None
    max_in_progress: int | None
    max_per_minute: int | None
    in_progress: int
    """Deployments with a device that are not deferred."""
    sent: int
    """In the last minute."""
