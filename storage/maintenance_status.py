"""What maintenance has to do, and how the last run went: for people and for metrics."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

import psycopg

from config.settings import Settings
from storage.archive_due import ALERTS_DUE, DEPLOYMENTS_DUE, Due, readings_before
from storage.command_connection import command_connection
from storage.disk_forecast import DiskForecast, forecast
from storage.rollups import ROLLED_UNTIL
from storage.sealing import due, partitions

_FILES = """
    SELECT count(*), coalesce(sum(row_count), 0)::int8, coalesce(sum(size_bytes), 0)::int8,
        count(*) FILTER (WHERE state <> 'complete')
    FROM archive_files"""


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """What is due, what is done."""

    days_due: int
    """Of readings past their time."""
    oldest_day: datetime | None
    alerts_due: int
    deployments_due: int
    files: int
    archived_rows: int
    archived_bytes: int
    files_open: int
    """On their way, or their rows not yet removed."""
    rolled_until: datetime | None
    late_marks: int
    disk: DiskForecast


def maintenance_status(settings: Settings, now: datetime) -> MaintenanceStatus:
    """Asks the database.

    Raises:
        As `command_connection`.
    """
    retention = settings.retention
    with command_connection(settings.database) as connection:
        days = partitions(connection)
        past = due(days, readings_before(now, retention.readings_days))
        files = connection.execute(_FILES).fetchone()
        assert files is not None, "an aggregate"
        rolled = connection.execute("SELECT value FROM daemon_state WHERE key = %s", [ROLLED_UNTIL]).fetchone()
        return MaintenanceStatus(
            len(past),
            min((day.from_at for day in days if day.from_at), default=None),
            rows_due(connection, ALERTS_DUE, now, retention.alerts_days),
            rows_due(connection, DEPLOYMENTS_DUE, now, retention.deployments_days),
            int(files[0]),
            int(files[1]),
            int(files[2]),
            int(files[3]),
            datetime.fromisoformat(rolled[0]) if rolled else None,
            _count(connection, "SELECT count(*) FROM rollup_repairs"),
            forecast(connection, settings.database.disk_bytes, retention.readings_days),
        )


def rows_due(connection: psycopg.Connection, kind: Due, now: datetime, days: int) -> int:
    """Returns how many rows of a kind ended before the UTC day that is `days` ago."""
    before = datetime.combine(now.date() - timedelta(days=days), time(tzinfo=UTC))
    query = f"SELECT count(*) FROM {kind.table} p WHERE {kind.done} AND p.{kind.time} < %s"  # noqa: S608
    return _count(connection, query, before)


def _count(connection: psycopg.Connection, query: str, *values: object) -> int:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None, "an aggregate"
    return int(row[0])
