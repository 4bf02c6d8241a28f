"""One run of maintenance: partitions ahead, then everything past its time into the archive and out of the database.

On the owner's connection, one run at a time (an advisory lock). What fails stops its own part only; nothing is dropped that is
not in the archive, and the next run goes on where this one ended.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import psycopg
import structlog

from config.storage_settings import NO_ARCHIVE, ArchiveSettings, RetentionSettings
from storage.archive_export import SESSION, Rows
from storage.archive_readings import LATENESS, ReadingsArchive
from storage.archive_rows import ALERTS_FAMILY, DEPLOYMENTS_FAMILY, Family, RowsArchive
from storage.archive_uploads import Uploads
from storage.database import one_line
from storage.maintenance import maintenance_connection
from storage.objects import ObjectStore
from storage.partitions import LOCK_TIMEOUT_S, ensure_partitions
from storage.refusals import Conflict
from storage.rollups import finish_day

log = structlog.get_logger(__name__)

MAINTENANCE_LOCK = int.from_bytes(b"upkeep")
STATEMENT_TIMEOUT_S = 6 * 3600.0
"""A day of many millions of rows is exported by one statement."""
SPOOL_PREFIX = "factoryd-archive-"


@dataclass(slots=True)
class MaintenanceReport:
    """What a run did, and what it could not do."""

    partitions_made: int = 0
    days: list[tuple[str, int, str | None]] = field(default_factory=list)
    """Of readings that were removed: the day, its rows, where they are now."""
    alerts: int = 0
    deployments: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Readings that were removed."""
        return sum(rows for _, rows, _ in self.days)


class MaintenanceFailed(Conflict):
    """A part of a run failed; the text has a line for each."""


def run_maintenance(
    owner_url: str, retention: RetentionSettings, archive: ArchiveSettings, now: datetime, progress: Rows = lambda _: None
) -> MaintenanceReport:
    """Does all that is due.

    Args:
        owner_url: a connection as the owner of the schema.
        retention: how long things are kept.
        archive: where they go; its url must be set.
        now: aware UTC.
        progress: told of rows that were exported.

    Raises:
        Conflict: another run is at work.
        DatabaseUnavailable, SchemaError: nothing was done.
    """
    assert archive.url is not None, "checked by the caller"
    report = MaintenanceReport()
    with _owner(owner_url) as connection, _spool(archive, owner_url) as spool:
        parts: list[tuple[str, Callable[[], None]]] = [
            ("partitions", lambda: _make_partitions(owner_url, retention, now.date(), report)),
            ("readings", lambda: _readings(connection, spool, retention, archive, now, report, progress)),
        ]
        families = ((ALERTS_FAMILY, retention.alerts_days), (DEPLOYMENTS_FAMILY, retention.deployments_days))
        for family, days in families:
            before = now.date() - timedelta(days=days)

            def remove(family: Family = family, before: date = before) -> None:
                _rows(connection, spool, archive, family, before, report, progress)

            parts.append((family.parent.name, remove))
        for name, act in parts:
            try:
                act()
            except (ConnectionError, Conflict, LookupError, RuntimeError, OSError, psycopg.Error) as error:
                if connection.closed:
                    raise
                report.errors.append(f"{name}: {one_line(error)}")
                log.error("maintenance_part_failed", part=name, error=one_line(error))
    return report


def readings_before(now: datetime, retention: RetentionSettings) -> datetime:
    """Returns the moment before which a day must end to be archived."""
    return now - timedelta(days=retention.readings_days) - LATENESS


@contextmanager
def open_archive(connection: psycopg.Connection, spool: Path, archive: ArchiveSettings) -> Iterator[Uploads | None]:
    """Opens the archive; None: there is none, and that was said."""
    if archive.url in {None, NO_ARCHIVE}:
        yield None
        return
    assert archive.url is not None, "just asked"
    yield Uploads(ObjectStore(archive.url, archive.s3_endpoint_url, archive.s3_timeout_s), spool, connection)


def device_names(connection: psycopg.Connection) -> dict[int, str]:
    """Returns the hardware ids of all devices by number."""
    return dict(connection.execute("SELECT id, device_id FROM devices").fetchall())


@contextmanager
def _owner(url: str) -> Iterator[psycopg.Connection]:
    with maintenance_connection(url, lock_timeout_s=LOCK_TIMEOUT_S, statement_timeout_s=STATEMENT_TIMEOUT_S) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [MAINTENANCE_LOCK]).fetchone()
        if not (row and row[0]):
            raise Conflict("another run of maintenance is at work: wait for its end (see pg_locks, locktype advisory)")
        connection.execute(SESSION)
        yield connection


@contextmanager
def _spool(archive: ArchiveSettings, url: str) -> Iterator[Path]:
    """A directory of this run; what a killed run has left behind is removed first (one run at a time holds the lock)."""
    where = archive.spool_directory or Path(tempfile.gettempdir())
    prefix = f"{SPOOL_PREFIX}{hashlib.sha256(url.rpartition('@')[2].encode()).hexdigest()[:8]}-"
    for left in where.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as directory:
        yield Path(directory)


def _make_partitions(owner_url: str, retention: RetentionSettings, today: date, report: MaintenanceReport) -> None:
    made = ensure_partitions(owner_url, retention.readings_days, retention.partitions_ahead_days, today)
    report.partitions_made = len(made)


def _readings(
    connection: psycopg.Connection,
    spool: Path,
    retention: RetentionSettings,
    archive: ArchiveSettings,
    now: datetime,
    report: MaintenanceReport,
    progress: Rows,
) -> None:
    with open_archive(connection, spool, archive) as uploads:
        days = ReadingsArchive(
            connection, uploads, spool, device_names(connection), lambda *day: finish_day(connection, *day), progress
        )
        for removed in days.run(readings_before(now, retention)):
            report.days.append((str(removed.day), removed.rows, removed.url))
            log.info("readings_archived", day=str(removed.day), rows=removed.rows, url=removed.url)


def _rows(
    connection: psycopg.Connection,
    spool: Path,
    archive: ArchiveSettings,
    family: Family,
    before: date,
    report: MaintenanceReport,
    progress: Rows,
) -> None:
    with open_archive(connection, spool, archive) as uploads:
        for removed in RowsArchive(connection, uploads, spool, device_names(connection), progress).run(family, before):
            if family is ALERTS_FAMILY:
                report.alerts += removed.rows
            else:
                report.deployments += removed.rows
            log.info("rows_archived", table=removed.table, day=str(removed.day), rows=removed.rows, urls=list(removed.urls))


def next_run(now: datetime, run_at: str) -> datetime | None:
    """Returns the next moment of the day at which maintenance is due; None: never."""
    if run_at == "never":
        return None
    hour, minute = map(int, run_at.split(":"))
    at = datetime.combine(now.date(), time(hour, minute, tzinfo=UTC))
    return at if at > now else at + timedelta(days=1)
