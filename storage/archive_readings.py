"""Days of readings into the archive: seal, roll up, export, upload, read back, detach, drop.

Any step may be the last one before a kill: the next run finds by what is there how far the day has come.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from storage.archive_export import Rows, export
from storage.archive_files import KEPT, ArchiveFile, list_files, mark_complete
from storage.archive_tables import READINGS
from storage.archive_uploads import Uploads
from storage.archived_before import new_rows
from storage.pace import Pace, is_led
from storage.refusals import Conflict
from storage.sealing import Partition, count_rows, detach, drop, due, partitions, seal

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemovedDay:
    """A day of readings that is no longer in the database. Without a URL: it was empty, or there is no archive."""

    day: date | None
    rows: int
    url: str | None


@dataclass(frozen=True, slots=True)
class ReadingsArchive:
    """What is done with days of readings that are past their time.

    Args:
        connection: of the owner; autocommit, prepared as `archive_export.SESSION`.
        uploads: the archive; None: there is none, and that was said.
        spool: a directory for files on their way.
        devices: hardware ids by number.
        roll_up: brings the roll-ups of a sealed day up to date, from its relation.
        progress: told of rows.
        rows_per_s: most rows of a day exported per second while a daemon is active; None: no limit.
    """

    connection: psycopg.Connection
    uploads: Uploads | None
    spool: Path
    devices: Mapping[int, str]
    roll_up: Callable[[Partition, date], None]
    progress: Rows = lambda _: None
    rows_per_s: float | None = None

    def run(self, before: datetime) -> Iterator[RemovedDay]:
        """Removes days from the database, one after the other.

        Raises:
            StoreUnavailable, PartitionsBlocked, DatabaseUnavailable: try again; the day is where it was.
            Conflict: a person must look; nothing was dropped.
        """
        for partition in due(partitions(self.connection), before):
            yield self.remove(partition)

    def remove(self, partition: Partition) -> RemovedDay:
        """Takes one day through all steps that it has not yet come through."""
        seal(self.connection, partition)
        rows, day = count_rows(self.connection, partition)
        file = None
        if rows and day is not None:
            self.roll_up(partition, day)
            file = self.archive(partition, day, rows) if self.uploads is not None else None
        detach(self.connection, partition)
        self.drop(replace(partition, attached=False), file)
        if rows and self.uploads is None:
            log.warning("readings_deleted_without_archive", day=str(day), rows=rows, because="archive.url is none")
        return RemovedDay(day, rows, file.url if file else None)

    def archive(self, partition: Partition, day: date, rows: int) -> ArchiveFile | None:
        """Returns the verified file that holds a day, made now unless an earlier run has made it.

        None: files of earlier runs hold all of it.
        """
        assert self.uploads is not None, "asked by the caller"
        known = list_files(self.connection, READINGS.name, day, day, KEPT)
        relation: sql.Composable = partition.relation
        if earlier := [file for file in known if file.state == "complete"]:
            relation, rows = new_rows(self.connection, self.uploads, partition, earlier)
            if not rows:
                return None
        for file in known:
            if file.state == "verified" and file.source == partition.name and file.row_count == rows:
                return file
        path = self.spool / "readings.parquet"
        try:
            pace = Pace(self.rows_per_s if is_led(self.connection) else None)
            exported = export(self.connection, READINGS, relation, self.devices, path, self.progress, pace)
            if exported.rows != rows:
                raise Conflict(f"{partition.name}: {rows} rows were counted and {exported.rows} exported: nothing was dropped")
            return self.uploads.add(READINGS, day, path, exported, partition.name)
        finally:
            path.unlink(missing_ok=True)

    def drop(self, partition: Partition, file: ArchiveFile | None) -> None:
        """Drops the day and says so in the manifest, both or neither."""
        with self.connection.transaction():
            drop(self.connection, partition)
            if file is not None:
                mark_complete(self.connection, [file.id])
