"""Devices as the daemon reads them: all before CONNECT, some on a cache miss."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from psycopg.rows import TupleRow

from ingest.devices import MAX_STREAMS, DeviceRow
from ingest.sequences import Stream
from storage.database import Connection, Pool, translated

SELECT = """
    SELECT d.id, d.device_id, d.timezone, d.interval_s, d.via_id, d.retired_at IS NOT NULL, d.status::text, d.last_seen,
        d.qos0_seen, d.clock, l.recorded_at
    FROM devices d LEFT JOIN device_latest l ON l.device_id = d.id"""

SEQUENCES = """
    SELECT s.device_id, s.boot_id, s.first_seq, s.last_seq, array_agg(lower(r) ORDER BY lower(r)) FILTER (WHERE r IS NOT NULL),
        array_agg(upper(r) ORDER BY lower(r)) FILTER (WHERE r IS NOT NULL)
    FROM (SELECT *, row_number() OVER (PARTITION BY device_id ORDER BY updated_at DESC) AS rank FROM device_sequences
        WHERE %(ids)s::int8[] IS NULL OR device_id = ANY(%(ids)s)) s
    LEFT JOIN LATERAL unnest(s.missing) AS r ON true
    WHERE s.rank <= %(most)s
    GROUP BY s.device_id, s.boot_id, s.first_seq, s.last_seq, s.updated_at ORDER BY s.updated_at"""

REGISTER = """
    INSERT INTO devices (device_id, name, type, location) SELECT n, n, 'unknown', '' FROM unnest(%s::text[]) AS n
    ON CONFLICT (device_id) DO NOTHING"""


class DeviceStore:
    """Look-ups and automatic registration."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load_all(self) -> list[DeviceRow]:
        """Returns every device.

        Raises:
            DatabaseUnavailable: try again.
        """
        async with self._connection() as connection:
            return await _with_streams(connection, await (await connection.execute(SELECT)).fetchall(), None)

    async def load_configuration(self) -> list[DeviceRow]:
        """Returns every device without its sequences, which only the daemon changes: for a reload.

        Raises:
            DatabaseUnavailable: try again.
        """
        async with self._connection() as connection:
            return [DeviceRow(*row) for row in await (await connection.execute(SELECT)).fetchall()]

    async def find(self, names: Sequence[str]) -> list[DeviceRow]:
        """Returns those of the named devices that exist."""
        async with self._connection() as connection:
            cursor = await connection.execute(f"{SELECT} WHERE d.device_id = ANY(%s)", [list(names)])
            rows = await cursor.fetchall()
            return await _with_streams(connection, rows, [row[0] for row in rows]) if rows else []

    async def register(self, names: Sequence[str]) -> list[DeviceRow]:
        """Creates devices on first sight (ingest.auto_register) and returns them."""
        async with self._connection() as connection:
            await connection.execute(REGISTER, [list(names)])
        return await self.find(names)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        with translated("reading devices"):
            async with self._pool.connection() as connection:
                yield connection


async def _with_streams(connection: Connection, rows: Iterable[TupleRow], ids: list[int] | None) -> list[DeviceRow]:
    streams: dict[int, list[tuple[str, Stream]]] = {}
    cursor = await connection.execute(SEQUENCES, {"ids": ids, "most": MAX_STREAMS})
    for device, boot, first, last, lows, highs in await cursor.fetchall():
        missing = list(zip(lows or [], highs or [], strict=True))
        streams.setdefault(device, []).append((boot, Stream(last, missing, first)))  # the last used last
    return [replace(DeviceRow(*row), streams=tuple(streams.get(row[0], ()))) for row in rows]
