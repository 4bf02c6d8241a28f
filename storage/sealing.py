"""Whole days of readings leave the table: sealed, so that nothing can be added; detached; dropped.

A day is sealed by a constraint that no row can satisfy. It holds for COPY and whatever session_replication_role says, which no
trigger does, and is there at once: rows that are there already are not looked at.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import psycopg
from psycopg import errors, sql

from storage.partitions import (
    LOCK_ATTEMPTS,
    LOCK_TIMEOUT_S,
    LOWER_BOUND,
    RETRY_PAUSE_S,
    UPPER_BOUND,
    PartitionsBlocked,
)

SEAL = "factoryd_sealed"

# By bounds and never by name. One that is no longer attached is ours if it was sealed; its rows tell its day then.
PARTITIONS = f"""
    SELECT c.relname, coalesce(i.inhrelid IS NOT NULL, false) AS attached, coalesce(i.inhdetachpending, false) AS pending,
        EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = %(seal)s) AS sealed,
        {LOWER_BOUND} AS from_at,
        {UPPER_BOUND} AS to_at
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'public.sensor_readings'::regclass
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND (i.inhrelid IS NOT NULL
        OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = %(seal)s))
    ORDER BY from_at NULLS FIRST, c.relname"""  # noqa: S608 - our constants


@dataclass(frozen=True, slots=True)
class Partition:
    """A day of readings. Without bounds: it is detached already."""

    name: str
    attached: bool
    pending: bool
    """Its detaching was begun and not finished."""
    sealed: bool
    from_at: datetime | None
    to_at: datetime | None

    @property
    def relation(self) -> sql.Identifier:
        """The table, for a statement."""
        return sql.Identifier("public", self.name)


def partitions(connection: psycopg.Connection) -> list[Partition]:
    """Returns the days that are attached, and those that are on their way out; the oldest first."""
    return [Partition(*row) for row in connection.execute(PARTITIONS, {"seal": SEAL})]


def due(days: Iterable[Partition], before: datetime) -> list[Partition]:
    """Returns those that end before a moment, or that an earlier run has begun with; in the given order."""
    return [
        partition
        for partition in days
        if not partition.attached or partition.sealed or (partition.to_at is not None and partition.to_at <= before)
    ]


def seal(connection: psycopg.Connection, partition: Partition) -> None:
    """Lets nothing be added or changed any more.

    Raises:
        PartitionsBlocked: somebody holds it.
    """
    if not partition.sealed:
        statement = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (false) NOT VALID").format(
            partition.relation, sql.Identifier(SEAL)
        )
        patiently(lambda: connection.execute(statement), f"partition {partition.name} was not sealed")


def detach(connection: psycopg.Connection, partition: Partition) -> None:
    """Takes the day out of the table, while others go on reading and writing.

    Raises:
        PartitionsBlocked: an old transaction stands in the way; what was begun is finished by the next attempt.
    """
    how = "FINALIZE" if partition.pending else "CONCURRENTLY"
    if partition.attached:
        text = f"ALTER TABLE public.sensor_readings DETACH PARTITION {{}} {how}"
        patiently(
            lambda: _detach(connection, sql.SQL(text).format(partition.relation), partition),
            f"partition {partition.name} was not detached",
        )


def _detach(connection: psycopg.Connection, statement: sql.Composed, partition: Partition) -> None:
    try:
        connection.execute(statement)
    except errors.ObjectNotInPrerequisiteState:  # begun by an attempt that ended before it was done
        pending = sql.SQL("ALTER TABLE public.sensor_readings DETACH PARTITION {} FINALIZE").format(partition.relation)
        connection.execute(pending)


def count_rows(connection: psycopg.Connection, partition: Partition) -> tuple[int, date | None]:
    """Returns how many rows a day holds, and which day that is; None: it is empty and no longer attached."""
    query = sql.SQL("SELECT count(*), min(recorded_at) FROM {}").format(partition.relation)
    row = connection.execute(query).fetchone()
    assert row is not None, "an aggregate"
    moment = partition.from_at or row[1]
    return int(row[0]), moment.astimezone(UTC).date() if moment else None


def drop(connection: psycopg.Connection, partition: Partition) -> None:
    """Drops a day that is detached, in the caller's transaction."""
    connection.execute(sql.SQL("DROP TABLE {}").format(partition.relation))


def patiently(act: Callable[[], object], failed: str) -> None:
    """Tries until a lock is granted.

    Raises:
        PartitionsBlocked: it was not, LOCK_ATTEMPTS times.
    """
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            time.sleep(RETRY_PAUSE_S)
        try:
            act()
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            continue
        return
    raise PartitionsBlocked(
        f"{failed}: a lock was not granted within {LOCK_TIMEOUT_S:g} s, {LOCK_ATTEMPTS} times: end the transaction that "
        "holds it (see pg_locks)"
    )
