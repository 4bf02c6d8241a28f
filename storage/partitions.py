"""Daily partitions of sensor_readings, made ahead of time on the owner's connection.

`CREATE TABLE … PARTITION OF` needs an exclusive lock on the parent: behind one long reader it waits, and every
writer waits behind it. So a partition is made as a table of its own and attached, which needs a lock that
conflicts with neither; and no wait is longer than a lock time-out.

Attaching also declares the foreign key, with a lock on devices that lets readers and the writer of readings
pass, but not writers of devices: presence waits for one time-out at most. Hence the short one.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import psycopg
from psycopg import errors, sql

from storage.maintenance import SchemaError, maintenance_connection

LOCK_TIMEOUT_S = 1.0
LOCK_ATTEMPTS = 5
RETRY_PAUSE_S = 0.5
# Few per transaction: the lock on devices is held until its end.
PARTITIONS_PER_TRANSACTION = 7
PARTITION_LOCK = 0x70617274

# Every role may run this: it reads the catalogue only.
PARTITION_NAMES_SQL = (
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
    "WHERE inhparent = 'public.sensor_readings'::regclass ORDER BY child.relname"
)

LOWER_BOUND = "(regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz"
UPPER_BOUND = "(regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']+)''\\)'))[1]::timestamptz"
"""What the catalogue says of a partition `c` of a range of moments, in SQL; null of any other table."""


class PartitionsBlocked(ConnectionError):
    """A lock was not granted in time; nothing half-made is left, and trying again later may help."""


def partition_name(day: date) -> str:
    """Returns the name of a UTC day's partition, e.g. sensor_readings_20260131."""
    return f"sensor_readings_{day:%Y%m%d}"


def partition_days_ahead(names: Iterable[str], today: date) -> int:
    """Counts the days after today (UTC) that have a partition, up to the first gap; -1 if today itself has none.

    Args:
        names: the rows of PARTITION_NAMES_SQL.
        today: the current UTC day.
    """
    existing = frozenset(names)
    days = -1
    while partition_name(today + timedelta(days=days + 1)) in existing:
        days += 1
    return days


def ensure_partitions(owner_url: str, days_back: int, days_ahead: int, today: date) -> list[str]:
    """Makes the missing partitions from `days_back` days before today to `days_ahead` days after it.

    A table that has a wanted partition's name but is not attached (left over, or detached by hand) is attached
    with its rows. Can be stopped and run again at any point, by several processes at once.

    Args:
        owner_url: a connection as the owner of the schema.
        days_back: days before today, at least 0.
        days_ahead: days after today, at least 0.
        today: the current UTC day.

    Returns:
        The names of the partitions made or attached, oldest first.

    Raises:
        PartitionsBlocked: a lock was not granted within LOCK_ATTEMPTS time-outs; what was made before stays.
        SchemaError: the schema is missing, or a table of that name does not fit.
        DatabaseUnavailable: no connection.
    """
    wanted = [today + timedelta(days=offset) for offset in range(-days_back, days_ahead + 1)]
    made: list[str] = []
    with maintenance_connection(owner_url, lock_timeout_s=LOCK_TIMEOUT_S) as connection, _explained():
        missing = _missing(connection, wanted)
        for start in range(0, len(missing), PARTITIONS_PER_TRANSACTION):
            made += _make_patiently(connection, missing[start : start + PARTITIONS_PER_TRANSACTION])
    return made


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except errors.UndefinedTable as error:
        raise SchemaError("there is no table sensor_readings to make partitions for: run factoryd migrate") from error
    except (psycopg.ProgrammingError, psycopg.IntegrityError) as error:
        raise SchemaError(
            f"a partition of sensor_readings could not be made: {error.diag.message_primary}: "
            "use the owner's URL, and rename or drop the table of that name"
        ) from error


def _missing(connection: psycopg.Connection, wanted: Iterable[date]) -> list[date]:
    existing = {name for (name,) in connection.execute(PARTITION_NAMES_SQL)}
    return [day for day in wanted if partition_name(day) not in existing]


def _make_patiently(connection: psycopg.Connection, days: list[date]) -> list[str]:
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            time.sleep(RETRY_PAUSE_S)
        try:
            return _make(connection, days)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            continue
    raise PartitionsBlocked(
        f"partition {partition_name(days[0])} was not made: a lock on sensor_readings or devices was not granted "
        f"within {LOCK_TIMEOUT_S:g} s, {LOCK_ATTEMPTS} times: end the transaction that holds it (see pg_locks)"
    )


def _make(connection: psycopg.Connection, days: list[date]) -> list[str]:
    """One transaction: after a time-out nothing of it is left."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [PARTITION_LOCK])
        days = _missing(connection, days)
        for day in days:
            _attach(connection, day)
    return [partition_name(day) for day in days]


def _attach(connection: psycopg.Connection, day: date) -> None:
    partition = sql.Identifier("public", partition_name(day))
    lower, upper = (sql.Literal(f"{bound:%Y-%m-%d} 00:00:00+00") for bound in (day, day + timedelta(days=1)))
    attach = sql.SQL(
        "ALTER TABLE public.sensor_readings ATTACH PARTITION {partition} FOR VALUES FROM ({lower}) TO ({upper})"
    ).format(partition=partition, lower=lower, upper=upper)
    if _exists(connection, day):
        _attach_leftover(connection, partition, attach, lower, upper)
    else:
        # The identity stays the parent's: PostgreSQL 17 and newer refuse a partition with one of its own.
        like = "CREATE TABLE {} (LIKE public.sensor_readings INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS)"
        connection.execute(sql.SQL(like).format(partition))
        connection.execute(attach)


def _exists(connection: psycopg.Connection, day: date) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{partition_name(day)}"]).fetchone()
    return bool(row and row[0])


def _attach_leftover(
    connection: psycopg.Connection, partition: sql.Identifier, attach: sql.Composed, lower: sql.Literal, upper: sql.Literal
) -> None:
    """The check lets ATTACH trust the rows without a scan while it holds the locks that others wait for."""
    check = "ALTER TABLE {} ADD CONSTRAINT partition_bounds CHECK (recorded_at >= {} AND recorded_at < {})"
    connection.execute(sql.SQL(check).format(partition, lower, upper))
    connection.execute(attach)
    connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT partition_bounds").format(partition))
