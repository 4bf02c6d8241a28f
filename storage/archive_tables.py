"""What of each table goes into the archive, in which types and which order. The only place that knows Parquet's types.

A file holds all columns of its table under their names, and `device`, the hardware id: who reads it needs nothing of ours.
Times are microseconds in UTC; enums, arrays and JSON are text, as PostgreSQL writes them.
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from sqlalchemy import BigInteger, Boolean, Double, Integer, SmallInteger
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from storage import models_alerting, models_ota
from storage.models import Base

DEVICE = "device"
SCHEMA_VERSION = 7
"""Of the columns: the revision that last changed an archived table."""
_TYPES: tuple[tuple[type, pa.DataType], ...] = (
    (TIMESTAMP, pa.timestamp("us", "UTC")),
    (Boolean, pa.bool_()),
    (Double, pa.float64()),
    (BigInteger, pa.int64()),
    (SmallInteger, pa.int32()),
    (Integer, pa.int32()),
)
# What repeats is found by its dictionary; numbers that rise are written as their differences.
_RISING = (pa.int64(), pa.timestamp("us", "UTC"))


@dataclass(frozen=True)
class ArchivedTable:
    """How a table is archived."""

    name: str
    time: str
    """The column that its files are ordered and found by."""
    order: tuple[str, ...]
    parent: str | None = None
    """The column that leads to the row of the parent's table, with which it is archived."""

    @cached_property
    def columns(self) -> dict[str, pa.DataType]:
        """Its columns by name, in the table's order."""
        return {column.name: _type_of(column.type) for column in Base.metadata.tables[self.name].columns}

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of its files."""
        named = [(DEVICE, pa.dictionary(pa.int32(), pa.string()))] if "device_id" in self.columns else []
        return pa.schema([*named, *self.columns.items()])

    @cached_property
    def encodings(self) -> dict[str, str]:
        """Parquet encodings of the columns that are written as differences."""
        return {name: "DELTA_BINARY_PACKED" for name, kind in self.columns.items() if kind in _RISING}

    @cached_property
    def is_binary(self) -> bool:
        """Whether its rows can be written back in binary: numbers, times and JSON only."""
        known = (TIMESTAMP, Double, BigInteger, JSONB)
        return all(isinstance(column.type, known) for column in Base.metadata.tables[self.name].columns)

    @cached_property
    def dictionaries(self) -> list[str]:
        """The columns that are written by a dictionary of their values."""
        return [name for name in self.schema.names if name not in self.encodings]


assert models_alerting.AlertOutbox.metadata is models_ota.OtaRollout.metadata is Base.metadata, "all tables are known"

READINGS = ArchivedTable("sensor_readings", "recorded_at", ("device_id", "recorded_at"))
ALERTS = ArchivedTable("alerts", "resolved_at", ("id",))
ALERT_HISTORY = ArchivedTable("alert_history", "happened_at", ("alert_id", "id"), parent="alert_id")
DEPLOYMENTS = ArchivedTable("ota_deployments", "completed_at", ("id",))
DEPLOYMENT_EVENTS = ArchivedTable("ota_deployment_events", "happened_at", ("deployment_id", "id"), parent="deployment_id")
TABLES = {table.name: table for table in (READINGS, ALERTS, ALERT_HISTORY, DEPLOYMENTS, DEPLOYMENT_EVENTS)}


def _type_of(kind: object) -> pa.DataType:
    return next((arrow for sql, arrow in _TYPES if isinstance(kind, sql)), pa.string())
