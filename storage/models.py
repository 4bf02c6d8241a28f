"""The seven contract tables as SQLAlchemy models; `storage.models_own` has the daemon's own ones.

The migrations write the schema; these models describe it for queries, and a test compares the two.
"""

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    Enum,
    FetchedValue,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEVICE_ID_PATTERN = "^[A-Za-z0-9._:-]{1,255}$"
LOGIN_PATTERN = "^[a-z0-9._-]{1,64}$"

UserRole = Enum("admin", "operator", "user", name="user_role")
DeviceStatus = Enum("online", "offline", "error", name="device_status")
# The order is the meaning: ORDER BY severity DESC lists critical first. (Not if the same query selects
# severity::text: PostgreSQL then sorts by that output column, as text.)
AlertSeverity = Enum("info", "warning", "critical", name="alert_severity")
AlertStatus = Enum("active", "acknowledged", "resolved", name="alert_status")
OtaVersionStatus = Enum("draft", "released", "deprecated", name="ota_version_status")
OtaDeploymentStatus = Enum("pending", "in_progress", "completed", "failed", name="ota_deployment_status")

BigId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
Created = Annotated[datetime, mapped_column(server_default=text("now()"))]


class Base(DeclarativeBase):
    """Constraint names are the ones PostgreSQL itself would give, so plain SQL and models agree."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        int: BigInteger,
        float: Double,
        str: Text,
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
    }


class Metrics:
    """The six measured columns shared by readings and latest values; None: not measured."""

    temperature: Mapped[float | None] = mapped_column(comment="degrees Celsius")
    humidity: Mapped[float | None] = mapped_column(comment="percent")
    pressure: Mapped[float | None] = mapped_column(comment="kPa")
    vibration: Mapped[float | None]
    power_consumption: Mapped[float | None] = mapped_column(comment="W")
    rpm: Mapped[float | None]


class User(Base):
    """A person, or the built-in `system` user that owns what nobody else does."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        UniqueConstraint("login"),
        CheckConstraint(f"login ~ '{LOGIN_PATTERN}'", name="login"),
    )

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(String(255))
    password_hash: Mapped[str] = mapped_column(String(255), comment="bcrypt; '!' never matches")
    name: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(UserRole)
    # Filled by the trigger users_login when the statement gives none.
    login: Mapped[str] = mapped_column(String(64), FetchedValue())
    created_at: Mapped[Created]
    updated_at: Mapped[Created]


class Device(Base):
    """A machine's sensor, gateway or controller: configuration, and the hot columns of its presence."""

    __tablename__ = "devices"
    __table_args__ = (
        UniqueConstraint("device_id"),
        CheckConstraint(f"device_id ~ '{DEVICE_ID_PATTERN}'", name="device_id"),
        CheckConstraint("interval_s > 0 AND interval_s < 'Infinity'", name="interval_s"),
        CheckConstraint("clock IN ('ok', 'unset', 'ahead', 'naive')", name="clock"),
        Index(None, "user_id"),
        Index(None, "via_id"),
        # Presence rewrites rows all the time: free space keeps those updates on their page (HOT).
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[BigId]
    device_id: Mapped[str] = mapped_column(String(255), comment="hardware id")
    name: Mapped[str] = mapped_column(String(255))
    type: Mapped[str] = mapped_column(String(100))
    location: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(DeviceStatus, server_default="offline")
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), comment="owner")
    # `metadata` is SQLAlchemy's own attribute, hence the other name here.
    details: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    last_seen: Mapped[datetime | None] = mapped_column(comment="our clock")
    created_at: Mapped[Created]
    updated_at: Mapped[Created]
    via_id: Mapped[int | None] = mapped_column(ForeignKey("devices.id"), comment="its gateway")
    timezone: Mapped[str | None] = mapped_column(comment="IANA zone of local times it sends")
    interval_s: Mapped[float | None] = mapped_column(comment="seconds between its messages")
    status_reason: Mapped[str | None]
    status_session: Mapped[str | None]
    reported_version: Mapped[str | None] = mapped_column(comment="firmware, as the device says")
    clock: Mapped[str] = mapped_column(server_default="ok")
    qos0_seen: Mapped[bool] = mapped_column(server_default=text("false"))
    retired_at: Mapped[datetime | None]


class SensorReading(Metrics, Base):
    """One reading; partitioned by UTC day of recorded_at (`storage.partitions`).

    (device_id, recorded_at) is the key: it makes a redelivered reading recognisable. `id` is numbered and
    has no unique index of its own: on a partitioned table one could not be unique without recorded_at.
    """

    __tablename__ = "sensor_readings"
    __table_args__ = (
        PrimaryKeyConstraint("device_id", "recorded_at"),
        Index(None, "recorded_at", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
        {"postgresql_partition_by": "RANGE (recorded_at)"},
    )

    # CACHE: a COPY of thousands of rows takes a block of numbers at a time.
    id: Mapped[int] = mapped_column(Identity(cache=1000))
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"), autoincrement=False)
    recorded_at: Mapped[datetime] = mapped_column(comment="the device's clock")
    created_at: Mapped[Created]
    received_at: Mapped[datetime] = mapped_column(server_default=text("now()"), comment="our clock")
    extra: Mapped[dict[str, Any] | None] = mapped_column(comment="metrics beyond the six")


def limit_checks() -> tuple[CheckConstraint, ...]:
    """What thresholds and classes of thresholds are checked for alike. Delays are at most 30 days."""
    return (
        CheckConstraint("min_value <= max_value AND min_value <> 'NaN' AND max_value <> 'NaN'", name="limits"),
        CheckConstraint("hysteresis >= 0 AND hysteresis < 'Infinity'", name="hysteresis"),
        CheckConstraint("min_value + hysteresis <= max_value - hysteresis", name="dead_band"),
        *(
            CheckConstraint(f"{name} {least} 0 AND {name} <= 2592000", name=name)
            for name, least in (
                ("for_seconds", ">="),
                ("clear_seconds", ">="),
                ("max_gap_seconds", ">"),
                ("no_data_seconds", ">"),
            )
        ),
    )


class Limits:
    """What a threshold says, whether it stands for one device or for a class of them."""

    metric_type: Mapped[str] = mapped_column(String(100))
    min_value: Mapped[float | None]
    max_value: Mapped[float | None]
    severity: Mapped[str] = mapped_column(AlertSeverity)
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))


class AlertThreshold(Limits, Base):
    """Limits for one metric of one device."""

    __tablename__ = "alert_thresholds"
    __table_args__ = (
        Index(None, "device_id"),
        Index(None, "user_id"),
        Index("alert_thresholds_class_id_device_id_key", "class_id", "device_id", unique=True),
        *limit_checks(),
    )

    id: Mapped[BigId]
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), comment="owner")
    created_at: Mapped[Created]
    updated_at: Mapped[Created]
    for_seconds: Mapped[float] = mapped_column(server_default=text("0"), comment="on-delay")
    hysteresis: Mapped[float] = mapped_column(server_default=text("0"), comment="dead band, in the metric's unit")
    clear_seconds: Mapped[float] = mapped_column(server_default=text("0"), comment="off-delay")
    max_gap_seconds: Mapped[float | None]
    no_data_seconds: Mapped[float | None]
    instruction: Mapped[str | None] = mapped_column(comment="what to do")
    class_id: Mapped[int | None] = mapped_column(
        ForeignKey("threshold_classes.id", ondelete="CASCADE"), comment="made by this class of thresholds"
    )


class Alert(Base):
    """A crossing of a threshold (or another `kind` of trouble), from triggered to resolved."""

    __tablename__ = "alerts"
    __table_args__ = (
        CheckConstraint("side IN ('high', 'low')", name="side"),
        CheckConstraint("origin IN ('live', 'retrospective')", name="origin"),
        Index(None, "user_id", "created_at"),
        Index(None, "status", "severity"),
        Index(None, "threshold_id"),
        Index(None, "device_id", "triggered_at"),
        Index("alerts_unnoticed_idx", "id", postgresql_where=text("NOT noticed")),
        Index(
            "alerts_open_idx",
            text("severity DESC"),
            text("triggered_at DESC"),
            text("id DESC"),
            postgresql_where=text("status <> 'resolved'"),
        ),
        Index("alerts_inhibited_by_idx", "inhibited_by", postgresql_where=text("inhibited_by IS NOT NULL")),
        Index("alerts_resolved_at_idx", "resolved_at", postgresql_where=text("status = 'resolved'")),
        Index(
            "alerts_one_open_key",
            "device_id",
            "kind",
            "threshold_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("status <> 'resolved'::alert_status"),
        ),
    )

    id: Mapped[BigId]
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"))
    threshold_id: Mapped[int | None] = mapped_column(ForeignKey("alert_thresholds.id", ondelete="SET NULL"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), comment="owner")
    severity: Mapped[str] = mapped_column(AlertSeverity)
    message: Mapped[str]
    status: Mapped[str] = mapped_column(AlertStatus, server_default="active")
    triggered_at: Mapped[Created]
    acknowledged_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    kind: Mapped[str] = mapped_column(server_default="threshold")
    version: Mapped[int] = mapped_column(
        server_default=text("1"), comment="rises with every change; a consumer ignores one it has seen"
    )
    metric: Mapped[str | None]
    side: Mapped[str | None]
    topic: Mapped[str | None] = mapped_column(comment="device/metric/threshold below {root}/alerts/")
    value: Mapped[float | None]
    peak_value: Mapped[float | None]
    min_value: Mapped[float | None]
    max_value: Mapped[float | None]
    acknowledged_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    resolution: Mapped[str | None]
    resolved_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    inhibited_by: Mapped[int | None] = mapped_column(ForeignKey("alerts.id"))
    announced: Mapped[bool] = mapped_column(server_default=text("false"))
    shelved_until: Mapped[datetime | None]
    stale: Mapped[bool] = mapped_column(server_default=text("false"))
    flapping: Mapped[bool] = mapped_column(server_default=text("false"))
    origin: Mapped[str] = mapped_column(server_default="live")
    noticed: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="false: changed by plain SQL, not yet published"
    )
