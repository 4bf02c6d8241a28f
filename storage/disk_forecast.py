"""When the database's disk will be full, as its days of readings grow and go."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors

from storage.partitions import UPPER_BOUND

DAYS = 7
"""Whole days that growth is measured over."""

# Of whole days only: today's grows still. A day that is past its time leaves every day, once there are so many.
_SIZES = f"""
    SELECT pg_total_relation_size(c.oid)
    FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE inhparent = 'public.sensor_readings'::regclass AND NOT inhdetachpending
        AND {UPPER_BOUND} <= now()
    ORDER BY {UPPER_BOUND} DESC"""  # noqa: S608 - our constants


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """Bytes, and days."""

    database_bytes: int
    grows_by_day: int
    """Mean of the last whole days; what leaves per day is taken off."""
    free_bytes: int | None
    """None: the disk is on another host, and `database.disk_bytes` does not say how large it is."""

    @property
    def days_until_full(self) -> float | None:
        """Infinite if it does not grow; None: unknown."""
        if self.free_bytes is None:
            return None
        return self.free_bytes / self.grows_by_day if self.grows_by_day > 0 else math.inf


def forecast(connection: psycopg.Connection, disk_bytes: int | None, readings_days: int) -> DiskForecast:
    """Looks at sizes, and at the disk.

    Args:
        connection: autocommit; as a role that may see where the data lies, if the disk is to be looked at.
        disk_bytes: size of the disk, if it cannot be looked at.
        readings_days: how long readings are kept.
    """
    row = connection.execute(
        "SELECT pg_database_size(current_database()), sum(pg_database_size(oid)) FROM pg_database"
    ).fetchone()
    assert row is not None, "an aggregate"
    sizes = [size for (size,) in connection.execute(_SIZES)]
    recent = sizes[:DAYS]
    growth = sum(recent) // len(recent) if recent else 0
    if len(sizes) >= readings_days:
        growth -= sum(sizes[-DAYS:]) // DAYS
    free = disk_bytes - int(row[1]) if disk_bytes is not None else _free(connection)
    return DiskForecast(int(row[0]), max(growth, 0), free)


def _free(connection: psycopg.Connection) -> int | None:
    try:
        row = connection.execute("SELECT current_setting('data_directory')").fetchone()
    except errors.InsufficientPrivilege:
        return None
    path = Path(row[0]) if row else None
    try:
        return shutil.disk_usage(path).free if path is not None and (path / "PG_VERSION").exists() else None
    except OSError:
        return None
