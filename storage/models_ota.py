"""Firmware over the air as SQLAlchemy models: the contract's two tables with what is ours on them, and our own."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, ForeignKeyConstraint, Index, Integer, SmallInteger, String, text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from storage.models import Base, BigId, Created, OtaDeploymentStatus, OtaVersionStatus

PHASES = (
    "'queued', 'sent', 'backoff', 'acknowledged', 'deferred', 'downloading', 'downloaded', 'verifying', 'installing', "
    "'installed', 'rebooting', 'confirming', 'done'"
)
OUTCOMES = (
    "'succeeded', 'already_installed', 'late_success', 'failed', 'timed_out', 'rejected', 'rolled_back', "
    "'version_mismatch', 'cancelled', 'superseded', 'expired', 'skipped', 'removed'"
)
LIVE = "status IN ('pending', 'in_progress')"


class OtaVersion(Base):
    """A firmware version. Once released it stays as it is (a trigger)."""

    __tablename__ = "ota_versions"
    __table_args__ = (
        Unique("version"),
        Unique("manifest_seq"),
        CheckConstraint("size_bytes > 0", name="size_bytes"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint("manifest_seq > 0", name="manifest_seq"),
        CheckConstraint("jsonb_typeof(signatures) = 'array'", name="signatures"),
    )

    id: Mapped[BigId]
    version: Mapped[str] = mapped_column(String(50), comment="semver")
    firmware_url: Mapped[str] = mapped_column(String(500))
    release_notes: Mapped[str | None]
    status: Mapped[str] = mapped_column(OtaVersionStatus, server_default="draft")
    released_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    hardware: Mapped[list[str]] = mapped_column(
        ARRAY(Text), server_default="{}", comment="hardware types it runs on; empty: any"
    )
    min_version: Mapped[str | None] = mapped_column(comment="the installed version must not be older")
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    downgrade: Mapped[bool] = mapped_column(server_default=text("false"), comment="may replace a newer version")
    manifest: Mapped[bytes | None] = mapped_column(comment="the signed bytes, never written anew")
    manifest_seq: Mapped[int | None] = mapped_column(comment="rises with every manifest, whatever the version")
    signatures: Mapped[list[Any]] = mapped_column(JSONB, server_default="[]", comment='[{"keyid","sig"}]')
    expires_at: Mapped[datetime | None]
    recalled_at: Mapped[datetime | None]
    recall_reason: Mapped[str | None]
    created_by: Mapped[str | None]
    released_by: Mapped[str | None]


class OtaKey(Base):
    """A key whose signatures are trusted; several at a time, so that they can be changed."""

    __tablename__ = "ota_keys"
    __table_args__ = (
        CheckConstraint("octet_length(public_key) = 32", name="public_key"),
        CheckConstraint("status IN ('active', 'retired', 'revoked')", name="status"),
    )

    keyid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    status: Mapped[str] = mapped_column(
        server_default="active", comment="retired: signs nothing new; revoked: nothing it signed is sent"
    )
    note: Mapped[str | None]
    created_at: Mapped[Created]
    ended_at: Mapped[datetime | None]


class OtaRollout(Base):
    """One version to many devices, in stages."""

    __tablename__ = "ota_rollouts"
    __table_args__ = (
        CheckConstraint(
            "status IN ('scheduled', 'running', 'soaking', 'paused', 'aborting', 'aborted', 'completed')", name="status"
        ),
        CheckConstraint("jsonb_typeof(selector) = 'object'", name="selector"),
        CheckConstraint("max_in_progress > 0", name="max_in_progress"),
        CheckConstraint("max_per_minute > 0", name="max_per_minute"),
        CheckConstraint("success_threshold_pct BETWEEN 0 AND 100", name="success_threshold_pct"),
        CheckConstraint("error_threshold_pct BETWEEN 0 AND 100", name="error_threshold_pct"),
        CheckConstraint("min_sample > 0", name="min_sample"),
        CheckConstraint("max_failures > 0", name="max_failures"),
        CheckConstraint("soak_seconds BETWEEN 0 AND 2592000", name="soak_seconds"),
        CheckConstraint("unreachable_after_seconds BETWEEN 0 AND 2592000", name="unreachable_after_seconds"),
        CheckConstraint("on_error IN ('pause', 'abort')", name="on_error"),
        CheckConstraint("on_stage_success IN ('next', 'pause')", name="on_stage_success"),
        CheckConstraint("verify_mode IN ('report', 'version')", name="verify_mode"),
        Index("ota_rollouts_live_idx", "id", postgresql_where=text("status NOT IN ('aborted', 'completed')")),
    )

    id: Mapped[BigId]
    name: Mapped[str]
    version_id: Mapped[int] = mapped_column(ForeignKey("ota_versions.id"))
    status: Mapped[str] = mapped_column(server_default="scheduled")
    selector: Mapped[dict[str, Any]]
    salt: Mapped[str] = mapped_column(
        server_default=text("(gen_random_uuid())::text"), comment="orders the devices: sha256(salt, device id)"
    )
    excluded: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="devices that were selected and left out, by reason"
    )
    max_in_progress: Mapped[int | None] = mapped_column(Integer)
    max_per_minute: Mapped[int | None] = mapped_column(Integer)
    success_threshold_pct: Mapped[float] = mapped_column(server_default=text("95"))
    error_threshold_pct: Mapped[float] = mapped_column(server_default=text("10"))
    min_sample: Mapped[int] = mapped_column(Integer, server_default=text("5"))
    max_failures: Mapped[int | None] = mapped_column(Integer)
    soak_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    unreachable_after_seconds: Mapped[float] = mapped_column(server_default=text("86400"))
    on_error: Mapped[str] = mapped_column(server_default="pause")
    on_stage_success: Mapped[str] = mapped_column(server_default="next")
    verify_mode: Mapped[str] = mapped_column(server_default="version")
    allow_downgrade: Mapped[bool] = mapped_column(server_default=text("false"))
    window: Mapped[str | None]
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]
    pause_reason: Mapped[str | None]
    created_by: Mapped[str | None]
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class OtaRolloutStage(Base):
    """One step of a rollout: a canary by selector, or the devices up to a share of all of them."""

    __tablename__ = "ota_rollout_stages"
    __table_args__ = (
        CheckConstraint("stage_no >= 0", name="stage_no"),
        CheckConstraint("cum_percent > 0 AND cum_percent <= 100", name="cum_percent"),
        CheckConstraint("status IN ('pending', 'running', 'soaking', 'passed', 'failed')", name="status"),
    )

    rollout_id: Mapped[int] = mapped_column(
        ForeignKey("ota_rollouts.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    stage_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str]
    selector: Mapped[dict[str, Any] | None]
    cum_percent: Mapped[float | None] = mapped_column(Double)
    status: Mapped[str] = mapped_column(server_default="pending")
    planned_count: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime | None]
    soak_until: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    decision: Mapped[dict[str, Any] | None] = mapped_column(comment="the numbers that the last decision was made on")


class OtaDeployment(Base):
    """One version on its way to one device."""

    __tablename__ = "ota_deployments"
    __table_args__ = (
        CheckConstraint("progress_percent BETWEEN 0 AND 100", name="progress_percent"),
        CheckConstraint(f"phase IN ({PHASES})", name="phase"),
        CheckConstraint(f"outcome IN ({OUTCOMES})", name="outcome"),
        CheckConstraint("verify_mode IN ('report', 'version')", name="verify_mode"),
        CheckConstraint("attempt > 0", name="attempt"),
        CheckConstraint("max_attempts > 0", name="max_attempts"),
        CheckConstraint("publish_pending IN ('update', 'cancel')", name="publish_pending"),
        CheckConstraint("outcome IS NULL OR status IN ('completed', 'failed')", name="outcome_status"),
        ForeignKeyConstraint(
            ["rollout_id", "stage_no"],
            ["ota_rollout_stages.rollout_id", "ota_rollout_stages.stage_no"],
            name="ota_deployments_stage_fkey",
        ),
        Index(None, "device_id", "status"),
        Index(None, "version_id", "status"),
        Index(None, "version_id", "status", "id"),
        Index("ota_deployments_live_key", "device_id", unique=True, postgresql_where=text("holds_device")),
        Index(
            "ota_deployments_rollout_id_device_id_key",
            "rollout_id",
            "device_id",
            unique=True,
            postgresql_where=text("rollout_id IS NOT NULL"),
        ),
        Index(
            "ota_deployments_waiting_idx",
            "device_id",
            "id",
            postgresql_where=text("status = 'pending' AND phase IN ('queued', 'backoff')"),
        ),
        Index("ota_deployments_completed_at_idx", "completed_at", postgresql_where=text("completed_at IS NOT NULL")),
        Index("ota_deployments_due_idx", "next_action_at", postgresql_where=text(LIVE)),
        Index("ota_deployments_cancel_idx", "id", postgresql_where=text(f"cancel_requested_at IS NOT NULL AND {LIVE}")),
        Index("ota_deployments_outbox_idx", "id", postgresql_where=text("publish_pending IS NOT NULL")),
        Index("ota_deployments_rollout_idx", "rollout_id", "stage_no", "status", "outcome"),
        {"postgresql_with": {"fillfactor": 60}},
    )

    id: Mapped[BigId]
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"))
    version_id: Mapped[int] = mapped_column(ForeignKey("ota_versions.id"))
    status: Mapped[str] = mapped_column(OtaDeploymentStatus, server_default="pending")
    progress_percent: Mapped[int | None] = mapped_column(Integer, server_default=text("0"))
    error_message: Mapped[str | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    rollout_id: Mapped[int | None] = mapped_column(ForeignKey("ota_rollouts.id"))
    stage_no: Mapped[int | None] = mapped_column(Integer)
    phase: Mapped[str] = mapped_column(server_default="queued", comment="where it stands, finer than status")
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    verify_mode: Mapped[str] = mapped_column(server_default="report")
    attempt: Mapped[int] = mapped_column(
        Integer, server_default=text("1"), comment="fences reports; unchanged when a command is sent again"
    )
    max_attempts: Mapped[int] = mapped_column(Integer, server_default=text("3"))
    resends: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    bytes_done: Mapped[int | None]
    from_version: Mapped[str | None]
    reported_version: Mapped[str | None]
    verified_at: Mapped[datetime | None]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    not_before: Mapped[datetime | None]
    queue_expires_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]
    phase_since: Mapped[datetime | None]
    last_report_at: Mapped[datetime | None]
    phase_deadline_at: Mapped[datetime | None]
    attempt_deadline_at: Mapped[datetime | None]
    next_action_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_force: Mapped[bool] = mapped_column(server_default=text("false"))
    cancel_reason: Mapped[str | None]
    cancel_deadline_at: Mapped[datetime | None]
    holds_device: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="from the first command to the end; at most one per device"
    )
    publish_pending: Mapped[str | None] = mapped_column(comment="a command not yet acknowledged by the broker")
    sends: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="commands asked for so far")
    events: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    event_at: Mapped[datetime | None]
    requested_by: Mapped[str | None]


class OtaDeploymentEvent(Base):
    """What happened to a deployment: reports (coalesced), commands, time-outs, what people did."""

    __tablename__ = "ota_deployment_events"
    __table_args__ = (
        CheckConstraint("kind IN ('report', 'hello', 'dispatch', 'command', 'timeout', 'operator', 'rollout')", name="kind"),
        Index("ota_deployment_events_deployment_id_idx", "deployment_id", "id"),
    )

    id: Mapped[BigId]
    deployment_id: Mapped[int] = mapped_column(ForeignKey("ota_deployments.id", ondelete="CASCADE"))
    kind: Mapped[str]
    attempt: Mapped[int] = mapped_column(Integer)
    seq: Mapped[int | None]
    verdict: Mapped[str]
    status: Mapped[str] = mapped_column(OtaDeploymentStatus)
    phase: Mapped[str]
    progress_percent: Mapped[int | None] = mapped_column(Integer)
    error_code: Mapped[str | None]
    detail: Mapped[str | None]
    happened_at: Mapped[datetime]


class OtaDeviceState(Base):
    """What a device last said about its firmware, and what people or faults say about the device."""

    __tablename__ = "ota_device_state"
    __table_args__ = {"postgresql_with": {"fillfactor": 70}}  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute

    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    hardware: Mapped[str | None]
    version: Mapped[str | None] = mapped_column(comment="runs now, as the device says")
    previous_version: Mapped[str | None]
    version_seen_at: Mapped[datetime | None]
    boot_id: Mapped[str | None]
    seq: Mapped[int | None]
    manifest_seq: Mapped[int | None]
    active_id: Mapped[int | None]
    hold_reason: Mapped[str | None] = mapped_column(comment="set by people: no firmware for this device")
    faults: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="in a row, with faulty_version_id")
    faulty_version_id: Mapped[int | None] = mapped_column(ForeignKey("ota_versions.id"))
    hello_at: Mapped[datetime | None]
