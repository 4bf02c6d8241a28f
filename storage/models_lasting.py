"""Tables that make data last: roll-ups, the ledger of gaps, archived files, runs of jobs."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Double, ForeignKey, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB, TIMESTAMP
from sqlalchemy.orm import Mapped, mapped_column

from ingest.reading import METRICS
from storage.models import Base, BigId, Created

ROLLUP_PARTS = ("sum", "min", "max", "first", "last")
"""What a bucket holds of each metric beside the count of its values."""


def _rollup(name: str, length: str) -> Table:
    values = [
        column
        for metric in METRICS
        for column in (
            Column(f"{metric}_count", Integer),
            *(Column(f"{metric}_{part}", Double) for part in ROLLUP_PARTS),
        )
    ]
    return Table(
        name,
        Base.metadata,
        Column("device_id", BigInteger, ForeignKey("devices.id"), primary_key=True, autoincrement=False),
        Column(
            "bucket",
            TIMESTAMP(timezone=True),
            primary_key=True,
            comment=f"its first moment; it holds {length} by the device's clock",
        ),
        Column("readings", Integer, nullable=False),
        *values,
        Column("extra", JSONB, comment='metrics beyond the six: {"name": [count, sum, min, max, first, last]}'),
        Index(None, "bucket", postgresql_using="brin", postgresql_with={"pages_per_range": 32}),
    )


READINGS_1M = _rollup("readings_1m", "one minute")
READINGS_1H = _rollup("readings_1h", "one hour")


class RollupRepair(Base):
    """Readings of this hour came after it had been rolled up; appended to with the readings, taken away when repaired."""

    __tablename__ = "rollup_repairs"
    __table_args__ = {"comment": "hours of which readings came after they had been rolled up"}  # noqa: RUF012 - as SQLAlchemy reads it

    id: Mapped[BigId]
    hour: Mapped[datetime]
    devices: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    created_at: Mapped[Created]


class SequenceGap(Base):
    """Messages of a device that never reached us, noticed by the one after them."""

    __tablename__ = "sequence_gaps"
    __table_args__ = (
        Index(
            "sequence_gaps_open_idx",
            "device_id",
            "boot_id",
            "first_seq",
            postgresql_where=text("closed_at IS NULL AND lost_at IS NULL"),
        ),
        Index(None, "device_id", "noticed_at"),
        Index(None, "noticed_at"),
        CheckConstraint("last_seq >= first_seq", name="order"),
        CheckConstraint("closed_at IS NULL OR lost_at IS NULL", name="end"),
    )

    id: Mapped[BigId]
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id"))
    boot_id: Mapped[str] = mapped_column(server_default="")
    first_seq: Mapped[int]
    last_seq: Mapped[int]
    missing: Mapped[Any] = mapped_column(INT8MULTIRANGE, comment="what of it has not come yet")
    noticed_at: Mapped[Created]
    closed_at: Mapped[datetime | None] = mapped_column(comment="late messages have filled it")
    lost_at: Mapped[datetime | None] = mapped_column(comment="the device began to count anew: it can no longer be filled")


class ArchiveFile(Base):
    """The manifest: one file in the archive, and what it holds."""

    __tablename__ = "archive_files"
    __table_args__ = (
        Index(None, "table_name", "day"),
        CheckConstraint("state IN ('uploading', 'verified', 'complete')", name="state"),
        CheckConstraint("row_count > 0", name="row_count"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint("(state = 'uploading') = (verified_at IS NULL)", name="verified"),
        CheckConstraint("(state = 'complete') = (completed_at IS NOT NULL)", name="complete"),
    )

    id: Mapped[BigId]
    table_name: Mapped[str]
    day: Mapped[date]
    url: Mapped[str] = mapped_column(unique=True)
    source: Mapped[str | None] = mapped_column(comment="the partition that it holds")
    state: Mapped[str] = mapped_column(
        Text, server_default="uploading", comment="complete: its rows are no longer in the table"
    )
    row_count: Mapped[int]
    size_bytes: Mapped[int]
    sha256: Mapped[str]
    schema_version: Mapped[int] = mapped_column(Integer)
    from_at: Mapped[datetime]
    to_at: Mapped[datetime]
    created_at: Mapped[Created]
    verified_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


class JobRun(Base):
    """One run of maintenance, a backup, a recovery drill or a verification, whoever started it."""

    __tablename__ = "job_runs"
    __table_args__ = (
        Index(None, "job", "started_at"),
        CheckConstraint("job IN ('maintenance', 'backup_full', 'backup_incr', 'drill', 'verify')", name="job"),
        CheckConstraint("outcome IN ('running', 'done', 'failed')", name="outcome"),
    )

    id: Mapped[BigId]
    job: Mapped[str]
    started_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(server_default="running")
    error: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
