"""Rows of PostgreSQL into one Parquet file: COPY … TO as CSV, read by Arrow, compressed by a thread of its own.

Memory stays flat however many rows there are. The same rows make the same bytes: a file's hash can be its name.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql
from pyarrow import csv

from storage.archive_tables import DEVICE, SCHEMA_VERSION, ArchivedTable
from storage.copy_out import copied_blocks
from storage.pace import Pace

BLOCK_BYTES = 1 << 20
"""CSV that is read at once; larger blocks are not faster."""
PACED_BLOCK_BYTES = 1 << 16
"""The same when it must not be fast: some 500 readings, a millisecond of work."""
BLOCKS_AHEAD = 4
ROW_GROUP = 128 * 1024
"""Rows that are compressed together, and skipped together by who looks for one device."""
SESSION = (
    "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET extra_float_digits = 1; SET intervalstyle = 'iso_8601';"
    " SET bytea_output = 'hex'; SET work_mem = '64MB'; SET max_parallel_workers_per_gather = 0; SET jit = off"
)
"""How PostgreSQL writes, and that it sorts in little memory without helpers: production runs beside."""

Rows = Callable[[int], None]
"""Told of every block: its rows."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What a file holds; no rows, no times."""

    rows: int
    from_at: datetime | None
    to_at: datetime | None


def export(
    connection: psycopg.Connection,
    table: ArchivedTable,
    relation: sql.Composable,
    devices: Mapping[int, str],
    path: Path,
    progress: Rows = lambda _: None,
    pace: Pace | None = None,
) -> Exported:
    """Writes rows to a file.

    Args:
        connection: prepared with SESSION.
        table: what they are rows of.
        relation: where they come from: what may stand behind FROM.
        devices: hardware ids by number.
        path: the file to be written.
        progress: told of rows.
        pace: how fast it may be; default: as fast as it can.

    Raises:
        psycopg.Error: the query failed.
        OSError: the file cannot be written.
    """
    query = sql.SQL("COPY (SELECT {} FROM {} ORDER BY {}) TO STDOUT (FORMAT CSV)").format(
        sql.SQL(", ").join(map(sql.Identifier, table.columns)), relation, sql.SQL(", ").join(map(sql.Identifier, table.order))
    )
    writer = _Writer(table, devices, path, progress)
    statement = query.as_bytes(connection)
    if pace is not None and pace.rows_per_s is not None:
        with writer:  # in this thread: while it works, PostgreSQL waits, and a core is free for who is in a hurry
            for block in copied_blocks(connection, statement, PACED_BLOCK_BYTES):
                writer.add(block)
                pace.keep(block.count(b"\n"))
        return writer.exported
    waiting: deque[Future[None]] = deque()
    with writer, ThreadPoolExecutor(1, "parquet") as thread:
        for block in copied_blocks(connection, statement, BLOCK_BYTES):
            waiting.append(thread.submit(writer.add, block))
            if len(waiting) > BLOCKS_AHEAD:
                waiting.popleft().result()
        for future in waiting:
            future.result()
    return writer.exported


class _Writer:
    """Blocks of CSV into a Parquet file."""

    def __init__(self, table: ArchivedTable, devices: Mapping[int, str], path: Path, progress: Rows) -> None:
        self.exported = Exported(0, None, None)
        self._table, self._progress = table, progress
        self._numbers, self._names = pa.array(list(devices), pa.int64()), pa.array(list(devices.values()), pa.string())
        self._waiting: list[pa.Table] = []
        self._read = csv.ReadOptions(column_names=list(table.columns), use_threads=False, block_size=2 * BLOCK_BYTES)
        self._parse = csv.ParseOptions(newlines_in_values=True)
        self._convert = csv.ConvertOptions(
            column_types=table.columns,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )
        self._file = pq.ParquetWriter(
            path,
            table.schema.with_metadata({"table": table.name, "schema_version": str(SCHEMA_VERSION)}),
            compression="zstd",
            use_dictionary=table.dictionaries,
            column_encoding=table.encodings,
        )

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def add(self, block: bytes) -> None:
        """Takes whole lines."""
        read = csv.read_csv(pa.py_buffer(block), self._read, self._parse, self._convert)
        if DEVICE in self._table.schema.names:
            read = read.add_column(0, DEVICE, self._named(read["device_id"]))
        self._waiting.append(read)
        if sum(table.num_rows for table in self._waiting) >= ROW_GROUP:
            self._flush()

    def _named(self, numbers: Any) -> Any:
        places = pc.index_in(numbers, self._numbers)
        chunks = [pa.DictionaryArray.from_arrays(chunk, self._names) for chunk in places.chunks]
        return pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.string()))

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting = []
        self._file.write_table(rows, row_group_size=2 * ROW_GROUP)
        span = pc.min_max(rows[self._table.time]).as_py()
        known = self.exported
        self.exported = Exported(
            known.rows + rows.num_rows,
            min(filter(None, (known.from_at, span["min"])), default=None),
            max(filter(None, (known.to_at, span["max"])), default=None),
        )
        self._progress(rows.num_rows)
