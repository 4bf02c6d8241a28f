"""Resolved alerts and ended deployments into the archive, with what hangs on them: by days, in batches by rising id.

A batch is exported from one snapshot, uploaded and read back; then it is deleted and its files are marked complete in one
transaction, but only if it still is what was exported.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from storage.archive_due import ALERTS_DUE, DEPLOYMENTS_DUE, Due
from storage.archive_export import Exported, Rows, export
from storage.archive_files import ArchiveFile, mark_complete
from storage.archive_tables import ALERT_HISTORY, ALERTS, DEPLOYMENT_EVENTS, DEPLOYMENTS, ArchivedTable
from storage.archive_uploads import Uploads

log = structlog.get_logger(__name__)

BATCH = 20_000
"""Rows of the parent's table that are deleted in one transaction."""


@dataclass(frozen=True, slots=True)
class Family:
    """A table and the one whose rows hang on its rows."""

    parent: ArchivedTable
    child: ArchivedTable
    due: Due
    release: str | None = None
    """Takes away references to rows that are to be deleted."""


ALERTS_FAMILY = Family(
    ALERTS,
    ALERT_HISTORY,
    ALERTS_DUE,
    "UPDATE alerts SET inhibited_by = NULL WHERE inhibited_by = ANY(%(ids)s) AND NOT id = ANY(%(ids)s)",
)
DEPLOYMENTS_FAMILY = Family(DEPLOYMENTS, DEPLOYMENT_EVENTS, DEPLOYMENTS_DUE)


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """A batch that is no longer in the database; no URLs: there is no archive."""

    table: str
    day: date
    rows: int
    children: int
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowsArchive:
    """What is done with a family's rows that are past their time.

    Args:
        connection: of the owner; autocommit, prepared as `archive_export.SESSION`.
        uploads: the archive; None: there is none, and that was said.
        spool: a directory for files on their way.
        devices: hardware ids by number.
        progress: told of rows.
    """

    connection: psycopg.Connection
    uploads: Uploads | None
    spool: Path
    devices: Mapping[int, str]
    progress: Rows = lambda _: None

    def run(self, family: Family, before: date) -> Iterator[RemovedRows]:
        """Removes rows whose end lies before a UTC day, one batch after the other, the oldest first.

        Raises:
            As `ReadingsArchive.run`.
        """
        while (day := self._oldest_day(family, before)) is not None:
            removed = self._remove(family, day)
            if removed is None:
                return
            yield removed

    def _oldest_day(self, family: Family, before: date) -> date | None:
        query = f"""SELECT (p.{family.parent.time} AT TIME ZONE 'UTC')::date FROM {family.parent.name} p
            WHERE {family.due.done} AND p.{family.parent.time} < %s ORDER BY p.{family.parent.time} LIMIT 1"""  # noqa: S608
        row = self.connection.execute(query.encode(), [_midnight(before)]).fetchone()
        return row[0] if row else None

    def _remove(self, family: Family, day: date) -> RemovedRows | None:
        """Takes the day's first batch out; None: it changed meanwhile, the next run will find it."""
        ids = self._batch(family, day)
        paths = {table: self.spool / f"{table.name}.parquet" for table in (family.parent, family.child)}
        try:
            with self.connection.transaction():
                self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                before = self._fingerprint(family, ids)
                exported = {table: self._export(table, ids, path) for table, path in paths.items()} if self.uploads else {}
            files = self._upload(day, exported, paths)
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)
        children = self._delete(family, ids, before, [file.id for file in files])
        if children is None:
            log.warning("batch_changed_while_archived", table=family.parent.name, day=str(day), next="the next run takes it")
            return None
        if self.uploads is None:
            table = family.parent.name
            log.warning("rows_deleted_without_archive", table=table, day=str(day), rows=len(ids), because="archive.url is none")
        return RemovedRows(family.parent.name, day, len(ids), children, tuple(file.url for file in files))

    def _batch(self, family: Family, day: date) -> list[int]:
        query = f"""SELECT p.id FROM {family.parent.name} p WHERE {family.due.done} AND p.{family.parent.time} >= %s
            AND p.{family.parent.time} < %s ORDER BY p.id LIMIT {BATCH}"""  # noqa: S608 - our constants
        bounds = [_midnight(day), _midnight(day + timedelta(days=1))]
        return [number for (number,) in self.connection.execute(query.encode(), bounds)]

    def _export(self, table: ArchivedTable, ids: Sequence[int], path: Path) -> Exported:
        relation = sql.SQL("{} WHERE {} = ANY({})").format(
            sql.Identifier(table.name), sql.Identifier(table.parent or "id"), sql.Literal(list(ids))
        )
        return export(self.connection, table, relation, self.devices, path, self.progress)

    def _upload(
        self, day: date, exported: Mapping[ArchivedTable, Exported], paths: Mapping[ArchivedTable, Path]
    ) -> list[ArchiveFile]:
        if self.uploads is None:
            return []
        return [self.uploads.add(table, day, paths[table], found) for table, found in exported.items() if found.rows]

    def _delete(self, family: Family, ids: list[int], before: object, files: Sequence[int]) -> int | None:
        """Deletes the batch if it is as it was exported; returns how many rows hung on it."""
        parent, child = family.parent, family.child
        with self.connection.transaction():
            lock = f"SELECT 1 FROM {parent.name} WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE"  # noqa: S608
            self.connection.execute(lock.encode(), {"ids": ids})
            if self._fingerprint(family, ids) != before:
                return None
            if family.release:
                self.connection.execute(family.release.encode(), {"ids": ids})
            children = f"DELETE FROM {child.name} WHERE {child.parent} = ANY(%(ids)s)"  # noqa: S608
            count = self.connection.execute(children.encode(), {"ids": ids}).rowcount
            self.connection.execute(f"DELETE FROM {parent.name} WHERE id = ANY(%(ids)s)".encode(), {"ids": ids})  # noqa: S608
            mark_complete(self.connection, files)
        return count

    def _fingerprint(self, family: Family, ids: Sequence[int]) -> object:
        """Returns what changes when any of the rows does."""
        parent, child = family.parent, family.child
        query = f"""SELECT (SELECT (count(*), sum(hashtextextended(t::text, 0))) FROM {parent.name} t WHERE id = ANY(%(ids)s)),
            (SELECT (count(*), sum(hashtextextended(t::text, 0))) FROM {child.name} t WHERE {child.parent} = ANY(%(ids)s))"""  # noqa: S608
        return self.connection.execute(query.encode(), {"ids": list(ids)}).fetchone()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(tzinfo=UTC))
