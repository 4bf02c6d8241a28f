"""The manifest: which file of the archive holds what. A row is written before its file, so no file can be forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import psycopg
from psycopg.rows import class_row

from storage.archive_tables import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file. `state`: uploading, verified (read back), complete (its rows are no longer in the table)."""

    id: int
    table_name: str
    day: date
    url: str
    source: str | None
    state: str
    row_count: int
    size_bytes: int
    sha256: str
    schema_version: int
    from_at: datetime
    to_at: datetime
    created_at: datetime
    verified_at: datetime | None
    completed_at: datetime | None


COLUMNS = ", ".join(ArchiveFile.__slots__)
INTEND = f"""
    INSERT INTO archive_files (table_name, day, url, source, row_count, size_bytes, sha256, schema_version, from_at, to_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, {SCHEMA_VERSION}, %s, %s)
    ON CONFLICT (url) DO UPDATE SET source = excluded.source
    RETURNING {COLUMNS}"""  # noqa: S608 - our constants
SELECT = f"""
    SELECT {COLUMNS} FROM archive_files
    WHERE (%(table)s::text IS NULL OR table_name = %(table)s) AND (%(since)s::date IS NULL OR day >= %(since)s)
        AND (%(until)s::date IS NULL OR day <= %(until)s) AND state = ANY(%(states)s)
    ORDER BY table_name, day, id"""  # noqa: S608
STATES = ("uploading", "verified", "complete")
KEPT = ("verified", "complete")
"""States of files that were read back: what they hold is in the archive."""


def intend(
    connection: psycopg.Connection,
    table: str,
    day: date,
    url: str,
    source: str | None,
    rows: int,
    size_bytes: int,
    sha256: str,
    from_at: datetime,
    to_at: datetime,
) -> ArchiveFile:
    """Writes a file's row before the file; returns the one that is there if the very same file was intended before."""
    with connection.cursor(row_factory=class_row(ArchiveFile)) as cursor:
        values = [table, day, url, source, rows, size_bytes, sha256, from_at, to_at]
        (file,) = cursor.execute(INTEND.encode(), values).fetchall()
    return file


def mark_verified(connection: psycopg.Connection, file: ArchiveFile) -> None:
    """The file was read back."""
    connection.execute(
        "UPDATE archive_files SET state = 'verified', verified_at = now() WHERE id = %s AND state = 'uploading'", [file.id]
    )


def mark_complete(connection: psycopg.Connection, numbers: Sequence[int]) -> None:
    """Its rows are no longer in the table; in the transaction that removes them."""
    connection.execute(
        "UPDATE archive_files SET state = 'complete', completed_at = now() WHERE id = ANY(%s) AND state = 'verified'",
        [list(numbers)],
    )


def forget(connection: psycopg.Connection, file: ArchiveFile) -> None:
    """The file is not there any more."""
    connection.execute("DELETE FROM archive_files WHERE id = %s AND state <> 'complete'", [file.id])


def list_files(
    connection: psycopg.Connection,
    table: str | None = None,
    since: date | None = None,
    until: date | None = None,
    states: Sequence[str] = STATES,
) -> list[ArchiveFile]:
    """Returns files of a table and of days, in the order of their days."""
    with connection.cursor(row_factory=class_row(ArchiveFile)) as cursor:
        values = {"table": table, "since": since, "until": until, "states": list(states)}
        return cursor.execute(SELECT.encode(), values).fetchall()
