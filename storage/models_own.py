"""The daemon's own tables as SQLAlchemy models, beside the seven of the contract in `storage.models`."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, SmallInteger, text
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE
from sqlalchemy.orm import Mapped, mapped_column

from storage.models import Base, Created, Metrics

# Rewritten by every batch: half-empty pages keep the updates on their page (HOT).
HOT_ROWS = {"postgresql_with": {"fillfactor": 50}}


class DeviceLatest(Metrics, Base):
    """The newest reading per device, kept by the write path: overviews never scan readings."""

    __tablename__ = "device_latest"
    __table_args__ = HOT_ROWS

    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    recorded_at: Mapped[datetime]
    received_at: Mapped[datetime]
    extra: Mapped[dict[str, Any] | None]
    evaluated_at: Mapped[datetime | None]


class DeviceSequence(Base):
    """Which sequence numbers of a device's start (boot) have arrived; `missing` are the gaps below last_seq."""

    __tablename__ = "device_sequences"
    __table_args__ = HOT_ROWS

    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"), primary_key=True, autoincrement=False)
    boot_id: Mapped[str] = mapped_column(primary_key=True, server_default="")
    first_seq: Mapped[int]
    last_seq: Mapped[int]
    missing: Mapped[Any] = mapped_column(INT8MULTIRANGE, server_default="{}")
    updated_at: Mapped[Created]


class Quarantine(Base):
    """A message that could not be stored as a reading, with its bytes and the reason.

    `flood_hour` is set on the one row per device, reason and hour that only counts (`repeats`).
    """

    __tablename__ = "quarantine"
    __table_args__ = (
        Index(
            "quarantine_flood_key",
            "device",
            "reason",
            "flood_hour",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("flood_hour IS NOT NULL"),
        ),
        Index(None, "device", "received_at"),
        Index(None, "received_at"),
        Index("quarantine_replay_idx", "id", postgresql_where=text("replay_requested_at IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    received_at: Mapped[datetime]
    topic: Mapped[str]
    device: Mapped[str | None]
    reason: Mapped[str]
    detail: Mapped[str] = mapped_column(server_default="")
    payload: Mapped[bytes]
    content_type: Mapped[str | None]
    qos: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    repeats: Mapped[int] = mapped_column(server_default=text("1"))
    flood_hour: Mapped[datetime | None]
    replay_requested_at: Mapped[datetime | None]
    replay_reason: Mapped[str | None]
    created_at: Mapped[Created]


class DaemonState(Base):
    """What must survive the process, by key; the two secret MQTT client ids are made by the migration."""

    __tablename__ = "daemon_state"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    updated_at: Mapped[Created]


class CacheVersion(Base):
    """One number per cached table, raised by triggers whenever its configuration changes."""

    __tablename__ = "cache_versions"

    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class DeviceCredential(Base):
    """A device's MQTT password, in mosquitto's own $7$ (PBKDF2-SHA512) form."""

    __tablename__ = "device_credentials"

    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)
    secret_hash: Mapped[str]
    created_at: Mapped[Created]
    rotated_at: Mapped[datetime | None]
