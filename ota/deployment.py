"""PURE. Nouns of firmware over the air: a deployment is one version on its way to one device.

`status` is the contract's coarse word and `phase` the finer one; `outcome` says how it ended.
"""

from datetime import datetime
from enum import StrEnum

import msgspec


class Word(StrEnum):
    """A word of the database or of the wire. Hashed as the string that it is: Enum's own hash is a function in Python."""

    __hash__ = str.__hash__


class Status(Word):
    """The schema's ota_deployment_status."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class Phase(Word):
    """Where a deployment stands, in the order of its life; a report without a number is ordered by this."""

    QUEUED = "queued"
    BACKOFF = "backoff"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    DEFERRED = "deferred"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    VERIFYING = "verifying"
    INSTALLING = "installing"
    INSTALLED = "installed"
    REBOOTING = "rebooting"
    CONFIRMING = "confirming"
    DONE = "done"


class Outcome(Word):
    """How a deployment ended."""

    SUCCEEDED = "succeeded"
    ALREADY_INSTALLED = "already_installed"
    LATE_SUCCESS = "late_success"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    VERSION_MISMATCH = "version_mismatch"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    SKIPPED = "skipped"
    REMOVED = "removed"


SUCCESSES = frozenset({Outcome.SUCCEEDED, Outcome.ALREADY_INSTALLED, Outcome.LATE_SUCCESS})
FAULTS = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.ROLLED_BACK, Outcome.VERSION_MISMATCH})
"""Only these count as errors of a rollout."""
RANK = {phase: place for place, phase in enumerate(Phase)}
WAITING = frozenset({Phase.QUEUED, Phase.BACKOFF})
"""Nothing of it is with the device."""
AFTER_REBOOT = frozenset({Phase.REBOOTING, Phase.CONFIRMING})
IRREVERSIBLE = frozenset({Phase.INSTALLING, Phase.INSTALLED, *AFTER_REBOOT})
"""The device writes, or has written, its flash."""


class Command(Word):
    """What may be waiting for the broker."""

    UPDATE = "update"
    CANCEL = "cancel"


class VerifyMode(Word):
    """Whose word ends a deployment: the device's report, or the version that runs after its reboot."""

    REPORT = "report"
    VERSION = "version"


class Deployment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of ota_deployments, with the names of its device and version. Times are aware UTC, by our clock."""

    id: int
    device_id: int
    device: str
    version_id: int
    version: str
    online: bool = True
    occupied: bool = False
    """Another deployment holds the device."""
    rollout_id: int | None = None
    status: Status = Status.PENDING
    phase: Phase = Phase.QUEUED
    outcome: Outcome | None = None
    progress_percent: int | None = 0
    error_code: str | None = None
    error_message: str | None = None
    verify_mode: VerifyMode = VerifyMode.REPORT
    attempt: int = 1
    max_attempts: int = 3
    resends: int = 0
    last_seq: int = 0
    bytes_done: int | None = None
    from_version: str | None = None
    reported_version: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    verified_at: datetime | None = None
    queue_expires_at: datetime | None = None
    dispatched_at: datetime | None = None
    phase_since: datetime | None = None
    last_report_at: datetime | None = None
    phase_deadline_at: datetime | None = None
    attempt_deadline_at: datetime | None = None
    next_action_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_force: bool = False
    cancel_reason: str | None = None
    cancel_deadline_at: datetime | None = None
    holds_device: bool = False
    publish_pending: Command | None = None
    sends: int = 0
    events: int = 0
    event_at: datetime | None = None

    @property
    def terminal(self) -> bool:
        """True: it has ended."""
        return self.status is Status.COMPLETED or self.status is Status.FAILED


class Timeouts(msgspec.Struct, frozen=True):
    """How long each phase may take without progress, in seconds."""

    ack_s: float = 120.0
    stall_s: float = 900.0
    install_s: float = 1800.0
    reboot_s: float = 900.0
    confirm_s: float = 600.0
    attempt_s: float = 14400.0
    cancel_s: float = 120.0
    max_resends: int = 5
    retry_base_s: float = 60.0
    retry_factor: float = 2.0
    retry_cap_s: float = 3600.0
