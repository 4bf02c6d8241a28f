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
from datetime import datetime, timedelta
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
    with opened_owner(owner_url) as connection, spool(archive, owner_url, "archive") as directory:
        _take_turn(connection)
        with open_archive(connection, directory, archive) as uploads:
            run = _Run(connection, directory, uploads, owner_url, retention, archive.rows_per_s, now, progress)
            for part in (run.partitions, run.uploads_begun, run.readings, run.alerts, run.deployments):
                run.attempt(part)
    return run.report


@dataclass(frozen=True, slots=True)
class _Run:
    """One run: its parts, one after the other."""

    connection: psycopg.Connection
    spool: Path
    uploads: Uploads | None
    owner_url: str
    retention: RetentionSettings
    rows_per_s: float | None
    now: datetime
    progress: Rows
    report: MaintenanceReport = field(default_factory=MaintenanceReport)

    def attempt(self, part: Callable[[], None]) -> None:
        """Does a part; what fails is reported, and the others go on."""
        try:
            part()
        except (ConnectionError, Conflict, LookupError, RuntimeError, OSError, psycopg.Error) as error:
            if self.connection.closed:
                raise
            self.report.errors.append(f"{part.__name__}: {one_line(error)}")
            log.error("maintenance_part_failed", part=part.__name__, error=one_line(error))

    def partitions(self) -> None:
        """Days ahead, and the days that are kept."""
        days, today = self.retention, self.now.date()
        self.report.partitions_made = len(
            ensure_partitions(self.owner_url, days.readings_days, days.partitions_ahead_days, today)
        )

    def uploads_begun(self) -> None:
        """One run at a time: what is half uploaded is a killed one's."""
        if self.uploads is not None and (count := sum(map(self.uploads.store.abort_uploads, (FOLDERS, f"{MANIFESTS}/")))):
            log.warning("uploads_aborted", count=count, because="a run was killed while it uploaded")

    def readings(self) -> None:
        """Whole days, the oldest first."""
        days = ReadingsArchive(
            self.connection,
            self.uploads,
            self.spool,
            device_names(self.connection),
            lambda *day: finish_day(self.connection, *day),
            self.progress,
            self.rows_per_s,
        )
        for removed in days.run(readings_before(self.now, self.retention.readings_days)):
            self.report.days.append((str(removed.day), removed.rows, removed.url))
            log.info("readings_archived", day=str(removed.day), rows=removed.rows, url=removed.url)

    def alerts(self) -> None:
        """Resolved alerts, with their history."""
        for rows in self._rows(ALERTS_FAMILY, self.retention.alerts_days):
            self.report.alerts += rows

    def deployments(self) -> None:
        """Ended deployments, with their events."""
        for rows in self._rows(DEPLOYMENTS_FAMILY, self.retention.deployments_days):
            self.report.deployments += rows

    def _rows(self, family: Family, days: int) -> Iterator[int]:
        before = self.now.date() - timedelta(days=days)
        archive = RowsArchive(self.connection, self.uploads, self.spool, device_names(self.connection), self.progress)
        for removed in archive.run(family, before):
            log.info("rows_archived", table=removed.table, day=str(removed.day), rows=removed.rows, urls=list(removed.urls))
            yield removed.rows


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
