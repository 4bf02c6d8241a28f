"""What became of a message, as the database shows it: for `factoryd device watch`. Reads only."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from config.loading import ConfigError
from config.settings import DatabaseSettings
from ingest.reading import Reading
from storage.database import Connection, connect, translated
from storage.upsert import COLUMNS

SLACK = timedelta(seconds=2)
"""A transaction may have begun a little before the mark and be committed after it."""

DEVICE = "SELECT id, timezone, retired_at IS NOT NULL FROM devices WHERE device_id = %s"
MARK = """
    SELECT pg_snapshot_xmax(s)::text, coalesce((SELECT array_agg(x::text) FROM pg_snapshot_xip(s) AS x), '{}'),
        clock_timestamp(), (SELECT coalesce(max(id), 0) FROM quarantine)
    FROM pg_current_snapshot() AS s"""

_written = "(age(r.xmin) <= age(%(xmax)s::xid8::xid) OR r.xmin = ANY(%(xip)s::text[]::xid8[]::xid[]))"
ROWS = f"""
    SELECT {", ".join(f"r.{name}" for name in COLUMNS)}, r.created_at, {_written}
    FROM sensor_readings r WHERE r.device_id = %(device)s"""  # noqa: S608 - our own constants
DATED = f"{ROWS} AND r.recorded_at = ANY(%(moments)s)"
UNDATED = f"{ROWS} AND r.recorded_at > %(since)s AND r.created_at >= %(since)s ORDER BY r.recorded_at LIMIT 2000"
REFUSED = """
    SELECT id, reason, detail, payload, flood_hour IS NOT NULL FROM quarantine
    WHERE device = %(device)s AND (id > %(quarantine)s OR (flood_hour IS NOT NULL AND received_at >= %(since)s))
    ORDER BY id LIMIT 2000"""
REPEATED = """
    SELECT EXISTS (SELECT FROM device_sequences WHERE device_id = %s AND boot_id = %s AND last_seq >= %s
        AND NOT missing @> %s::int8)"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the database: what is written later can be told from what was there."""

    xmax: str
    running: tuple[str, ...]
    at: datetime
    quarantine: int


class WatchedDevice(NamedTuple):
    """A device as far as its messages must be understood."""

    number: int
    timezone: str | None
    retired: bool


class StoredRow(NamedTuple):
    """A row of readings, and how old it is."""

    reading: Reading
    is_new: bool
    """Inserted since the mark, or shortly before."""
    is_changed: bool
    """Inserted or completed since the mark, exactly."""


class RefusedRow(NamedTuple):
    """A row of the quarantine that came since the mark."""

    id: int
    reason: str
    detail: str
    payload: bytes
    flood: bool


class Fates:
    """Answers from one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def device(self, name: str) -> WatchedDevice | None:
        """Returns the device, or None if it is not registered."""
        rows = await self._fetch(DEVICE, [name])
        return WatchedDevice(*rows[0]) if rows else None

    async def mark(self) -> Mark:
        """Returns the present moment."""
        ((xmax, running, at, quarantine),) = await self._fetch(MARK, [])
        return Mark(xmax, tuple(running), at, quarantine)

    async def dated(self, device: int, moments: Sequence[datetime], mark: Mark) -> dict[datetime, StoredRow]:
        """Returns the rows of a device at these times, by time."""
        rows = await self._stored(DATED, {"device": device, "moments": list(moments)}, mark)
        return {row.reading.recorded_at: row for row in rows}

    async def undated(self, device: int, oldest: datetime, mark: Mark) -> list[StoredRow]:
        """Returns the rows of a device that were inserted since the mark and are not older than `oldest`."""
        return await self._stored(UNDATED, {"device": device, "since": min(oldest, mark.at - SLACK)}, mark)

    async def refused(self, device: str, mark: Mark) -> list[RefusedRow]:
        """Returns what came into the quarantine for a device since the mark."""
        values = {"device": device, "quarantine": mark.quarantine, "since": mark.at - SLACK}
        return [RefusedRow(*row) for row in await self._fetch(REFUSED, values)]

    async def repeated(self, device: int, boot: str, seq: int) -> bool:
        """Tells whether a sequence number has been noted."""
        rows = await self._fetch(REPEATED, [device, boot, seq, seq])
        return bool(rows[0][0])

    async def _stored(self, query: str, values: dict[str, object], mark: Mark) -> list[StoredRow]:
        rows = await self._fetch(query, {**values, "xmax": mark.xmax, "xip": list(mark.running)})
        return [StoredRow(Reading._make(row[:10]), row[10] >= mark.at - SLACK, row[11]) for row in rows]

    async def _fetch(self, query: str, values: Sequence[object] | dict[str, object]) -> list[tuple[Any, ...]]:
        with translated("reading what became of a message"):
            return await (await self._connection.execute(query.encode(), values)).fetchall()


@asynccontextmanager
async def open_fates(settings: DatabaseSettings) -> AsyncIterator[Fates]:
    """Opens a connection for it.

    Raises:
        ConfigError: database.url is not set.
        DatabaseUnavailable: no connection.
    """
    if settings.url is None:
        raise ConfigError("database.url: not set; give it in the settings file or in FACTORYD_DATABASE__URL")
    async with await connect(settings, "factoryd command") as connection:
        yield Fates(connection)
