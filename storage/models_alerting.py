"""Alerting's own tables as SQLAlchemy models: classes of thresholds, rule state, history, outbox, commands, late windows."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from storage.models import AlertStatus, Base, BigId, Created, Limits, limit_checks


class ThresholdClass(Limits, Base):
    """One threshold for every device that its selector matches, new ones included: triggers keep a row per device."""

    __tablename__ = "threshold_classes"
    __table_args__ = (
        CheckConstraint("jsonb_typeof(selector) = 'object' AND selector <> '{}'", name="selector"),
        *limit_checks(),
    )

    id: Mapped[BigId]
    selector: Mapped[dict[str, Any]] = mapped_column(
        JSONB, comment="which devices: type, location, via, owner, device; * stands for any text"
    )
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    for_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    hysteresis: Mapped[float] = mapped_column(server_default=text("0"))
    clear_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    max_gap_seconds: Mapped[float | None]
    no_data_seconds: Mapped[float | None]
    instruction: Mapped[str | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class RuleState(Base):
    """Where a threshold's state machine stands; written in the batch's transaction. No row: normal, and never left it."""

    __tablename__ = "rule_state"
    __table_args__ = (
        CheckConstraint("phase IN ('normal', 'pending', 'active', 'recovering')", name="phase"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    threshold_id: Mapped[int] = mapped_column(
        ForeignKey("alert_thresholds.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    phase: Mapped[str]
    since: Mapped[datetime | None]
    evaluated_at: Mapped[datetime | None]
    value: Mapped[float | None]
    peak_value: Mapped[float | None]
    side: Mapped[str | None]
    crossed_at: Mapped[datetime | None]
    latent: Mapped[bool] = mapped_column(server_default=text("false"))
    changes: Mapped[list[datetime]] = mapped_column(ARRAY(TIMESTAMP(timezone=True)), server_default="{}")
    doublings: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    flapping: Mapped[bool] = mapped_column(server_default=text("false"))
    shelved_until: Mapped[datetime | None]


class AlertHistory(Base):
    """One row per version of an alert: what changed, when, and by whom."""

    __tablename__ = "alert_history"
    __table_args__ = (Index("alert_history_alert_id_idx", "alert_id", "id"),)

    id: Mapped[BigId]
    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"))
    version: Mapped[int]
    change: Mapped[str]
    status: Mapped[str] = mapped_column(AlertStatus)
    value: Mapped[float | None]
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    note: Mapped[str | None]
    happened_at: Mapped[datetime]
    created_at: Mapped[Created]


class AlertOutbox(Base):
    """What is to be published, written in the transaction that made it so; marked after PUBACK, deleted a day later."""

    __tablename__ = "alert_outbox"
    __table_args__ = (
        Index("alert_outbox_waiting_idx", "created_at", "alert_id", "version", postgresql_where=text("published_at IS NULL")),
        Index("alert_outbox_published_at_idx", "published_at"),
    )

    alert_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    topic: Mapped[str]
    payload: Mapped[bytes]
    retain: Mapped[bool]
    event_topic: Mapped[str | None]
    created_at: Mapped[Created]
    published_at: Mapped[datetime | None]


class OperatorCommand(Base):
    """What a person wants done with an alert; the daemon carries it out and says what came of it."""

    __tablename__ = "operator_commands"
    __table_args__ = (Index("operator_commands_waiting_idx", "id", postgresql_where=text("carried_out_at IS NULL")),)

    id: Mapped[BigId]
    login: Mapped[str]
    action: Mapped[str]
    alert_id: Mapped[int | None]
    note: Mapped[str | None]
    shelve_until: Mapped[datetime | None]
    sticky: Mapped[bool] = mapped_column(server_default=text("false"))
    origin: Mapped[str] = mapped_column(server_default="sql")
    request_id: Mapped[str | None]
    response_topic: Mapped[str | None]
    correlation_data: Mapped[bytes | None]
    created_at: Mapped[Created]
    carried_out_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    detail: Mapped[str | None]


class LateWindow(Base):
    """A stretch of a device's past in which readings came late: its thresholds are to be evaluated there again."""

    __tablename__ = "late_windows"

    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    noted_in: Mapped[datetime] = mapped_column(
        primary_key=True, server_default=text("date_trunc('minute', now())"), comment="grows in that minute only"
    )
    from_at: Mapped[datetime]
    to_at: Mapped[datetime]
    noted_at: Mapped[Created]
