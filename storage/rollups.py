"""Roll-ups of readings: the minutes that have passed, and the hours to which late readings came.

One daemon at a time rolls up: its name stands in daemon_state, and the row is held while it writes. So nothing that a daemon
without the lead may still be doing can move the mark behind the back of the next one.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import psycopg

from storage.database import Connection, Pool, translated
from storage.partitions import LOWER_BOUND
from storage.rollup_sql import hours, minutes_from
from storage.sealing import Partition

ROLLED_UNTIL = "readings_rolled_until"
ROLLER = "readings_roller"
REPAIRS_AT_ONCE = 200
"""Rows of rollup_repairs that are looked at together: what concerns the same hour is repaired once."""
ONE_HOUR = timedelta(hours=1)
_SET = """INSERT INTO daemon_state (key, value) VALUES (%s, %s)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()"""
_HELD = "SELECT 1 FROM daemon_state WHERE key = %s AND value = %s FOR SHARE"
_OLDEST = f"""
    SELECT min({LOWER_BOUND})
    FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE inhparent = 'public.sensor_readings'::regclass AND NOT inhdetachpending AND pg_relation_size(c.oid) > 0"""  # noqa: S608 - our constants
_ARCHIVED = "SELECT day FROM archive_files WHERE table_name = 'sensor_readings' AND state = 'complete'"
_FROM_TABLE = minutes_from("sensor_readings").encode()
_HOURS = hours().encode()
# Compiling costs more than it saves; and a plan made for any moments would not know the partitions that these need.
_TUNED = "SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_custom_plan"


class RollerDeposed(RuntimeError):
    """Another daemon rolls up now."""


class RollupTable:
    """The roll-ups, as the leading daemon writes them.

    Args:
        pool: the daemon's own connections.
        roller: a name that no other process has.
    """

    def __init__(self, pool: Pool, roller: str) -> None:
        self._pool, self._roller = pool, roller

    async def take_over(self) -> datetime | None:
        """Makes us the one who rolls up, once the last one's transaction is over, and returns up to when it is done.

        None: never; the oldest partition is where to begin.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("taking over the roll-ups"):
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(_SET, [ROLLER, self._roller])
                row = await (
                    await connection.execute("SELECT value FROM daemon_state WHERE key = %s", [ROLLED_UNTIL])
                ).fetchone()
        return datetime.fromisoformat(row[0]) if row else None

    async def oldest(self) -> datetime | None:
        """Returns the first moment of the oldest partition with rows; None: there are none.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading the partitions"):
            async with self._pool.connection() as connection:
                row = await (await connection.execute(_OLDEST)).fetchone()
        return row[0] if row else None

    async def roll(self, from_at: datetime, until_at: datetime) -> int:
        """Rolls up the minutes from one moment to before another, and remembers that; returns the buckets written.

        Raises:
            DatabaseUnavailable: try again.
            RollerDeposed: stop.
        """
        with translated("rolling up readings"):
            async with self._pool.connection() as connection, connection.transaction():
                await self._hold(connection)
                written = await _roll(connection, from_at, until_at, None)
                await connection.execute(_SET, [ROLLED_UNTIL, until_at.isoformat()])
        return written

    async def repair(self) -> int:
        """Repairs hours to which readings came late; returns how many marks that took care of. 0: there are none.

        A bucket whose readings are gone stays as it is.

        Raises:
            DatabaseUnavailable: try again.
            RollerDeposed: stop.
        """
        with translated("repairing roll-ups"):
            async with self._pool.connection() as connection, connection.transaction():
                await self._hold(connection)
                query = "SELECT id, hour, devices FROM rollup_repairs ORDER BY id LIMIT %s"
                rows = await (await connection.execute(query, [REPAIRS_AT_ONCE])).fetchall()
                gone = {day for (day,) in await (await connection.execute(_ARCHIVED)).fetchall()} if rows else set[date]()
                late: dict[datetime, set[int]] = {}
                for _, hour, devices in rows:
                    if hour.astimezone(UTC).date() not in gone:
                        late.setdefault(hour, set()).update(devices)
                for hour, numbers in sorted(late.items()):
                    await _roll(connection, hour, hour + ONE_HOUR, sorted(numbers))
                await connection.execute("DELETE FROM rollup_repairs WHERE id = ANY(%s)", [[row[0] for row in rows]])
        return len(rows)

    async def _hold(self, connection: Connection) -> None:
        await connection.execute(_TUNED)
        if await (await connection.execute(_HELD, [ROLLER, self._roller])).fetchone() is None:
            raise RollerDeposed("another daemon rolls up now")


async def _roll(connection: Connection, from_at: datetime, until_at: datetime, devices: Sequence[int] | None) -> int:
    values = {"from_at": from_at, "until_at": until_at, "devices": devices}
    written = (await connection.execute(_FROM_TABLE, values)).rowcount
    if written:
        await connection.execute(_HOURS, {**values, "from_at": whole_hour(from_at), "until_at": hour_end(until_at)})
    return written


def finish_day(connection: psycopg.Connection, partition: Partition, day: date) -> None:
    """Brings the roll-ups of a sealed day up to date, before its readings go.

    Args:
        connection: of the owner; autocommit.
        partition: the day's; attached or not.
        day: UTC.
    """
    begin = datetime.combine(day, time(tzinfo=UTC))
    end = begin + timedelta(days=1)
    row = connection.execute("SELECT value FROM daemon_state WHERE key = %s", [ROLLED_UNTIL]).fetchone()
    if row and datetime.fromisoformat(row[0]) >= end and not _late_hours(connection, begin, end):
        return
    if list(connection.execute(_ARCHIVED + " AND day = %s", [day])):
        return  # most of its readings are gone: what is left would make poorer buckets
    minutes = minutes_from(partition.relation.as_string()).encode()
    for number in range(24):
        hour = begin + number * ONE_HOUR
        values = {"from_at": hour, "until_at": hour + ONE_HOUR, "devices": None}
        with connection.transaction():
            connection.execute(_TUNED)
            if connection.execute(minutes, values).rowcount:
                connection.execute(_HOURS, values)
            connection.execute("DELETE FROM rollup_repairs WHERE hour = %s", [hour])


def _late_hours(connection: psycopg.Connection, begin: datetime, end: datetime) -> bool:
    query = "SELECT EXISTS (SELECT FROM rollup_repairs WHERE hour >= %s AND hour < %s)"
    row = connection.execute(query, [begin, end]).fetchone()
    return bool(row and row[0])


def whole_hour(moment: datetime) -> datetime:
    """Returns the begin of a moment's hour."""
    return moment.replace(minute=0, second=0, microsecond=0)


def hour_end(moment: datetime) -> datetime:
    """Returns the first whole hour that is not before a moment."""
    begin = whole_hour(moment)
    return begin if begin == moment else begin + ONE_HOUR
