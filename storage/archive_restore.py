"""Archived rows back into the database: into a side table, by days and device, as often as one likes.

Per file one transaction: what an earlier run has put into the table of this file is taken out again, then all is copied. Who
looks for one device reads only the row groups that may hold it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import errors, sql
from pyarrow import csv

from storage.archive_export import Rows
from storage.archive_files import KEPT, ArchiveFile, list_files
from storage.archive_tables import DEVICE, TABLES, ArchivedTable
from storage.archive_uploads import Uploads
from storage.copy_binary import HEADER, TRAILER, as_binary
from storage.refusals import Conflict, InvalidInput, NotFound

SIDE_PREFIX = "restored_"
FILE_COLUMN = "archive_file_id"
"""Added to a side table: which file a row came from."""
BATCH_ROWS = 16 * 1024
"""Rows that are in memory at once; more are not faster."""
_SIDE = """
    CREATE TABLE IF NOT EXISTS {side} (LIKE {table} INCLUDING DEFAULTS INCLUDING COMMENTS EXCLUDING IDENTITY);
    ALTER TABLE {side} ADD COLUMN IF NOT EXISTS {file} bigint NOT NULL;
    CREATE INDEX IF NOT EXISTS {index} ON {side} USING brin ({file}) WITH (pages_per_range = 32)"""
# Files are sorted: a BRIN index finds a device's rows, and costs next to nothing.
_ORDERED = "CREATE INDEX IF NOT EXISTS {index} ON {side} USING brin ({order}) WITH (pages_per_range = 16)"


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """What came out of one file."""

    file: ArchiveFile
    rows: int


def restore(
    connection: psycopg.Connection,
    uploads: Uploads,
    table: ArchivedTable,
    since: date,
    until: date,
    *,
    device: str | None = None,
    into: str | None = None,
    progress: Rows = lambda _: None,
) -> Iterator[RestoredFile]:
    """Restores files of days, one after the other.

    Args:
        connection: of the owner; autocommit.
        uploads: the archive.
        table: what is restored.
        since: first UTC day.
        until: last UTC day, included.
        device: only rows of this hardware id.
        into: name of the side table, made if it is missing; default: restored_ and the table's name.
        progress: told of rows.

    Raises:
        NotFound: no file of these days.
        InvalidInput: the name cannot be used.
        ArchiveDamaged: a file is not what was archived; nothing of it was restored.
        StoreUnavailable: try again; files that were told of are restored.
    """
    side = side_table(table, into)
    if device is not None and DEVICE not in table.schema.names:
        raise InvalidInput(
            f"rows of {table.name} name no device: restore the days, and join them with {SIDE_PREFIX}… of its parent"
        )
    files = list_files(connection, table.name, since, until, KEPT)
    if not files:
        raise NotFound(f"the archive holds nothing of {table.name} from {since} to {until}; see factoryd archive list")
    _make_side(connection, table, side)
    for file in files:
        yield RestoredFile(file, _restore_file(connection, uploads, table, file, side, device, progress))
    order = sql.SQL(", ").join(map(sql.Identifier, table.order))
    names = {"index": sql.Identifier(f"{side}_order_idx"), "side": sql.Identifier("public", side), "order": order}
    connection.execute(sql.SQL(_ORDERED).format(**names))


def side_table(table: ArchivedTable, into: str | None) -> str:
    """Returns the name of the table to restore into.

    Raises:
        InvalidInput: it is one of the schema's own.
    """
    name = into or f"{SIDE_PREFIX}{table.name}"
    if name in TABLES or not name.isidentifier() or not name.islower() or len(name) > 50:
        raise InvalidInput(
            f"{name[:60]!r} cannot be restored into: name a table beside the daemon's own, such as restored_{table.name}"
        )
    return name


def _make_side(connection: psycopg.Connection, table: ArchivedTable, side: str) -> None:
    names = {
        "side": sql.Identifier("public", side),
        "table": sql.Identifier("public", table.name),
        "file": sql.Identifier(FILE_COLUMN),
        "index": sql.Identifier(f"{side}_file_idx"),
    }
    exists = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s), to_regclass(%s) IS NULL",
        [f"public.{side}", FILE_COLUMN, f"public.{side}"],
    ).fetchone()
    assert exists is not None, "one row"
    if not exists[0] and not exists[1]:
        raise InvalidInput(f"there is a table {side}, and it is not one that was restored into; name another one with --into")
    with connection.transaction():
        connection.execute(sql.SQL(_SIDE).format(**names))


def _restore_file(
    connection: psycopg.Connection,
    uploads: Uploads,
    table: ArchivedTable,
    file: ArchiveFile,
    side: str,
    device: str | None,
    progress: Rows,
) -> int:
    path = uploads.spool / "restore.parquet"
    try:
        uploads.fetch(file, path)
        with connection.transaction():
            relation = sql.Identifier("public", side)
            devices: sql.Composable = sql.SQL("")
            if device is not None:
                devices = sql.SQL(" AND device_id IN (SELECT id FROM devices WHERE device_id = {})").format(device)
            remove = sql.SQL("DELETE FROM {} WHERE {} = {}{}").format(relation, sql.Identifier(FILE_COLUMN), file.id, devices)
            connection.execute(remove)
            return copy_file(connection, table, path, relation, file, device, progress)
    except (errors.UndefinedColumn, errors.InvalidTextRepresentation) as error:
        raise Conflict(
            f"{file.url} was written by schema {file.schema_version}, which does not fit {side}: {error.diag.message_primary}; "
            "restore into another table with --into"
        ) from error
    finally:
        path.unlink(missing_ok=True)


def copy_file(
    connection: psycopg.Connection,
    table: ArchivedTable,
    path: Path,
    relation: sql.Identifier,
    file: ArchiveFile,
    device: str | None = None,
    progress: Rows = lambda _: None,
) -> int:
    """Copies a fetched file into a relation that has its columns and FILE_COLUMN; returns the rows."""
    parquet, count = pq.ParquetFile(path), 0
    names = [name for name in parquet.schema_arrow.names if name != DEVICE]
    binary = table.is_binary and set(names) <= set(table.columns)
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        relation, sql.SQL(", ").join(map(sql.Identifier, [*names, FILE_COLUMN])), sql.SQL("BINARY" if binary else "CSV")
    )
    encode = as_binary if binary else as_csv
    with connection.cursor().copy(query) as copy:
        if binary:
            copy.write(HEADER)
        for rows in _rows_of(parquet, device):
            for piece in encode(rows.select(names).append_column(FILE_COLUMN, pa.repeat(file.id, rows.num_rows))):
                copy.write(piece)
            count += rows.num_rows
            progress(rows.num_rows)
        if binary:
            copy.write(TRAILER)
    return count


def _rows_of(parquet: pq.ParquetFile, device: str | None) -> Iterator[pa.Table]:
    groups = list(range(parquet.num_row_groups))
    if device is not None:
        groups = [group for group in groups if _may_hold(parquet.metadata.row_group(group), device)]
    if not groups:
        return
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups):
        rows = pa.Table.from_batches([batch])
        if device is not None:
            rows = rows.filter(pc.equal(rows[DEVICE].cast(pa.string()), device))
        if rows.num_rows:
            yield rows


def _may_hold(group: Any, device: str) -> bool:
    """Rows are in the order of the devices' numbers: a row group knows the least and the greatest of its hardware ids."""
    column = next(group.column(place) for place in range(group.num_columns) if group.column(place).path_in_schema == DEVICE)
    known = column.statistics
    return known is None or not known.has_min_max or known.min <= device <= known.max


def as_csv(rows: pa.Table) -> Iterator[bytes]:
    """Yields rows as COPY … (FORMAT CSV) reads them: null is nothing, and text that is empty is quoted. Times are in UTC."""
    plain = [column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column for column in rows.columns]
    buffer = io.BytesIO()
    csv.write_csv(pa.table(plain, rows.column_names), buffer, csv.WriteOptions(include_header=False, quoting_style="needed"))
    yield buffer.getvalue()
