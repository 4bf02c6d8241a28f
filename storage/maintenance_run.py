"""One run of maintenance: partitions ahead, then everything past its time into the archive and out of the database.

On the owner's connection, one run at a time (an advisory lock). What fails stops its own part only; nothing is dropped that is
not in the archive, and the next run goes on where this one ended.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import psycopg
import structlog

from config.storage_settings import NO_ARCHIVE, ArchiveSettings, RetentionSettings
from storage.archive_due import readings_before
from storage.archive_export import SESSION, Rows
from storage.archive_readings import ReadingsArchive
from storage.archive_rows import ALERTS_FAMILY, DEPLOYMENTS_FAMILY, Family, RowsArchive
from storage.archive_uploads import FOLDERS, MANIFESTS, Uploads
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
    with opened_owner(owner_url) as connection, spool(archive, owner_url, "archive") as directory:
        _take_turn(connection)
        parts: list[tuple[str, Callable[[], None]]] = [
            ("partitions", lambda: _make_partitions(owner_url, retention, now.date(), report)),
            ("uploads", lambda: _abort_uploads(connection, directory, archive)),
            ("readings", lambda: _readings(connection, directory, retention, archive, now, report, progress)),
        ]
        families = ((ALERTS_FAMILY, retention.alerts_days), (DEPLOYMENTS_FAMILY, retention.deployments_days))
        for family, days in families:
            before = now.date() - timedelta(days=days)

            def remove(family: Family = family, before: date = before) -> None:
                _rows(connection, directory, archive, family, before, report, progress)

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


@contextmanager
def open_archive(connection: psycopg.Connection, spool: Path, archive: ArchiveSettings) -> Iterator[Uploads | None]:
    """Opens the archive; None: there is none, and that was said."""
    if archive.url in {None, NO_ARCHIVE}:
        yield None
        return
    assert archive.url is not None, "just asked"
    with closing(ObjectStore(archive.url, archive.s3_endpoint_url, archive.s3_timeout_s)) as store:
        yield Uploads(store, spool, connection)


def device_names(connection: psycopg.Connection) -> dict[int, str]:
    """Returns the hardware ids of all devices by number."""
    return dict(connection.execute("SELECT id, device_id FROM devices").fetchall())


@contextmanager
def opened_owner(url: str) -> Iterator[psycopg.Connection]:
    """Opens a connection of the owner for long work: no wait for a lock is long, but a statement may be."""
    with maintenance_connection(url, lock_timeout_s=LOCK_TIMEOUT_S, statement_timeout_s=STATEMENT_TIMEOUT_S) as connection:
        connection.execute(SESSION)
        yield connection


@contextmanager
def spool(archive: ArchiveSettings, url: str, purpose: str) -> Iterator[Path]:
    """Makes a directory for files on their way; what killed runs of the same purpose have left behind is removed."""
    where = archive.spool_directory or Path(tempfile.gettempdir())
    where.mkdir(parents=True, exist_ok=True)
    prefix = f"factoryd-{purpose}-{hashlib.sha256(url.rpartition('@')[2].encode()).hexdigest()[:8]}-"
    for left in where.glob(f"{prefix}*"):
        if not _is_used(left):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", dir=where) as directory:
        yield Path(directory)


def _is_used(directory: Path) -> bool:
    """Its name holds the number of the process that made it."""
    try:
        os.kill(int(directory.name.split("-")[3]), 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _take_turn(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", [MAINTENANCE_LOCK]).fetchone()
    if not (row and row[0]):
        raise Conflict("another run of maintenance is at work: wait for its end (see pg_locks, locktype advisory)")


def _make_partitions(owner_url: str, retention: RetentionSettings, today: date, report: MaintenanceReport) -> None:
    made = ensure_partitions(owner_url, retention.readings_days, retention.partitions_ahead_days, today)
    report.partitions_made = len(made)


def _abort_uploads(connection: psycopg.Connection, spool: Path, archive: ArchiveSettings) -> None:
    """One run at a time: what is half uploaded is a killed one's."""
    with open_archive(connection, spool, archive) as uploads:
        if uploads is not None and (count := sum(map(uploads.store.abort_uploads, (FOLDERS, f"{MANIFESTS}/")))):
            log.warning("uploads_aborted", count=count, because="a run was killed while it uploaded")


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
            connection,
            uploads,
            spool,
            device_names(connection),
            lambda *day: finish_day(connection, *day),
            progress,
            archive.rows_per_s,
        )
        for removed in days.run(readings_before(now, retention.readings_days)):
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
