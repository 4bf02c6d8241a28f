"""Step 5 of a reading's walk: one batch, one transaction. The last file before the row.

Readings newer than everything stored for their device cannot conflict: binary COPY. The rest: the merging upsert. The declared
foreign key would more than halve COPY; so the batch's devices are locked FOR KEY SHARE once, and the per-row check is off for
the COPY alone (needs SET on session_replication_role; without that grant the plain path runs).
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import structlog

from alerting.draft import Draft
from alerting.outgoing import Outgoing
from ingest.batch import Batch, Origin, in_order, merge_latest, quarantined_row
from ingest.devices import Registry
from ingest.flood import Refusals
from ingest.reading import Quarantined, Reading, Reason
from storage.alert_rows import MARKS, Beside, is_one_statement, write_draft
from storage.alerts import AlertLedger
from storage.database import Connection, DatabaseUnavailable, one_line, translated
from storage.late_marks import late_hours, write_marks
from storage.leader import LeadershipLost
from storage.partitions import PARTITION_NAMES_SQL, partition_name
from storage.sealing import SEAL
from storage.side_rows import ON_LATEST_CONFLICT, write_side_rows
from storage.sqlstate import FOREIGN_KEY, NO_PARTITION, Remedy, remedy
from storage.upsert import COLUMNS, GIVEN, TYPES, Upserted, given, upsert_readings

log = structlog.get_logger(__name__)

NAMES = ", ".join(COLUMNS)
COPY = f"COPY sensor_readings ({NAMES}) FROM STDIN (FORMAT BINARY)"
INSERT = f"INSERT INTO sensor_readings ({NAMES}) SELECT * FROM {GIVEN}"  # noqa: S608 - names are our constants
PLAIN = f"""
    given AS (SELECT * FROM {GIVEN.replace("%s", "%(readings)s")}),
    stored AS (INSERT INTO sensor_readings ({NAMES}) SELECT * FROM given),
    latest AS (INSERT INTO device_latest AS l ({NAMES}, evaluated_at)
        SELECT *, least(recorded_at, received_at) FROM given {ON_LATEST_CONFLICT})"""  # noqa: S608 - our constants
"""A plain batch, and what it means for alerts beside it: one statement, one round trip, one transaction."""
SMALL_BATCH = 250
"""Up to this many rows an INSERT in the transaction's pipeline is faster than a COPY, which needs round trips of its own."""


class PartitionMissing(DatabaseUnavailable):
    """The day's partition was not made: the batch waits, and the broker queues."""


@dataclass(slots=True)
class Committed:
    """What became of a batch's readings, and the quarantine rows that were written."""

    stored: int
    merged: int
    duplicate: int
    refused: Refusals


Commit = Callable[[Batch, Refusals], Awaitable[Committed]]


@dataclass(slots=True)
class _Careful:
    """What the row by row way found."""

    upserted: Upserted = field(default_factory=Upserted)
    accepted: list[int] = field(default_factory=list)
    stored: list[Reading] = field(default_factory=list)
    refused: list[tuple[int, Reason, str]] = field(default_factory=list)


class ReadingWriter:
    """Commits batches on the one connection that holds the leader's lock: who loses it can commit nothing more."""

    def __init__(
        self,
        connection: Connection,
        registry: Registry,
        alerts: AlertLedger,
        *,
        skip_key_check: bool,
        kept: timedelta,
        clock: Callable[[], datetime],
        on_missing_partition: Callable[[], None],
    ) -> None:
        """Prepares nothing.

        Args:
            connection: holds the leader's lock.
            registry: for the names of devices.
            alerts: what the readings mean for thresholds goes into the same transaction.
            skip_key_check: whether our role may set session_replication_role.
            kept: how long readings are kept: days within it must have a partition.
            clock: aware UTC.
            on_missing_partition: told when one of these days has none.
        """
        self._connection = connection
        self._registry = registry
        self._alerts = alerts
        self._skip_key_check = skip_key_check
        self._kept = kept
        self._clock = clock
        self._on_missing_partition = on_missing_partition
        self._rolled_until: datetime | None = None

    async def move_mark(self, rolled_until: datetime) -> None:
        """Readings before that moment are late from the next batch on: their roll-ups are made, and must be made anew."""
        async with self._alerts.turn:
            self._rolled_until = rolled_until

    async def commit(self, batch: Batch) -> Committed:
        """Stores the batch and everything that belongs to it, or nothing.

        Raises:
            DatabaseUnavailable: try the same batch again.
            LeadershipLost: the connection is gone; nothing may be acknowledged any more.
        """
        async with self._alerts.turn:
            try:
                return await self._attempt(self._commit_fast, batch)
            except psycopg.Error as error:
                if remedy(error.sqlstate) is not Remedy.BISECT:
                    raise
                log.warning("batch_refused", sqlstate=error.sqlstate, error=one_line(error), readings=batch.readings)
            return await self._attempt(self._commit_carefully, batch)

    async def ping(self) -> None:
        """Tells whether we still hold the lock.

        Raises:
            LeadershipLost: no.
        """
        try:
            async with self._alerts.turn:
                await self._connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise LeadershipLost(f"the writer's connection is gone: {one_line(error)}") from error

    async def _attempt(self, commit: Commit, batch: Batch) -> Committed:
        refused = batch.refused.copy()
        with translated("committing a batch"):
            try:
                return await commit(batch, refused)
            except (psycopg.Error, PartitionMissing) as error:
                refused.undo()
                if self._connection.closed or self._connection.broken:
                    raise LeadershipLost(f"the connection was lost while committing: {one_line(error)}") from error
                await self._connection.rollback()
                raise

    async def _commit_fast(self, batch: Batch, refused: Refusals) -> Committed:
        connection, outcome = self._connection, Upserted()
        late = late_hours(batch, self._rolled_until)
        if _is_plain(batch) and not late:
            draft, messages = await self._alerts.evaluate(batch.fresh)
            beside = Beside(PLAIN, {"readings": given(batch.fresh)[0]})
            if is_one_statement(draft):
                await write_draft(connection, draft, messages, beside)
            else:
                async with connection.pipeline():
                    await connection.execute("BEGIN")
                    await write_draft(connection, draft, messages, beside)
                    await connection.execute("COMMIT")
            self._alerts.settle(draft, messages)
            return Committed(len(batch.fresh), 0, batch.duplicates, refused)
        begun = len(batch.fresh) > SMALL_BATCH or bool(batch.rest)
        if len(batch.fresh) > SMALL_BATCH:
            await self._copy(batch.fresh)
        elif batch.rest:
            await connection.execute("BEGIN")
            await self._insert(batch.fresh)
        if batch.rest:
            outcome = await upsert_readings(connection, batch.rest, batch.fresh)
            for place in outcome.conflicts:
                refused.add(self._conflict(batch.rest[place], batch.rest_origins[place]))
        draft, messages = await self._alerts.evaluate(in_order(batch, outcome.told) if batch.rest else batch.fresh)
        async with connection.pipeline():
            if not begun:
                await connection.execute("BEGIN")
                await self._insert(batch.fresh)
            await write_side_rows(connection, batch, _latest(batch, outcome.conflicts), refused)
            await self._write_alerts(batch, draft, messages)
            if late:
                await write_marks(connection, late)
            await connection.execute("COMMIT")
        self._alerts.settle(draft, messages)
        return Committed(len(batch.fresh) + outcome.stored, outcome.merged, outcome.duplicate + batch.duplicates, refused)

    async def _write_alerts(self, batch: Batch, draft: Draft, messages: Sequence[Outgoing]) -> None:
        if draft:
            await write_draft(self._connection, draft, messages)
        if batch.rest and draft.marks:  # a clock that was ahead and is put right: its readings are not the newest
            behind = [(number, at) for number, at in draft.marks.items() if number not in batch.latest]
            if behind:
                await self._connection.execute(MARKS, [list(column) for column in zip(*behind, strict=True)])

    async def _insert(self, readings: Sequence[Reading]) -> None:
        if readings:
            await self._connection.execute(INSERT, given(readings))

    async def _copy(self, readings: Sequence[Reading]) -> None:
        ids = {reading[0] for reading in readings}
        key_check = "SET LOCAL session_replication_role = replica" if self._skip_key_check else "SELECT 1"
        numbers = ",".join(map(str, ids))
        # One round trip: several statements in one string, all numbers of our own.
        cursor = await self._connection.execute(
            f"BEGIN; SELECT id FROM devices WHERE id IN ({numbers}) FOR KEY SHARE; {key_check}".encode()  # noqa: S608
        )
        cursor.nextset()
        if cursor.rowcount < len(ids):
            raise psycopg.errors.ForeignKeyViolation("a device of this batch is no longer in the table devices")
        async with self._connection.cursor().copy(COPY) as copy:
            copy.set_types(TYPES)
            for reading in readings:
                await copy.write_row(reading)
        if self._skip_key_check:
            await self._connection.execute("SET LOCAL session_replication_role = origin")

    async def _commit_carefully(self, batch: Batch, refused: Refusals) -> Committed:
        """A row can never fit: find it by halving, quarantine it, keep its neighbours."""
        readings, origins = batch.fresh + batch.rest, batch.fresh_origins + batch.rest_origins
        careful = _Careful()
        await self._connection.execute("BEGIN")
        await self._insert_halves(readings, 0, careful)
        for place in careful.upserted.conflicts:
            refused.add(self._conflict(readings[place], origins[place]))
        for place, reason, detail in careful.refused:
            name = self._name(readings[place])
            refused.add(quarantined_row(readings[place], origins[place], name, reason, detail))
        count = len(batch.fresh)
        fresh = [readings[place] for place in careful.accepted if place < count]
        latest = _newest_values(fresh, [readings[place] for place in careful.accepted if place >= count])
        await write_side_rows(self._connection, batch, latest.values(), refused)
        told = careful.upserted.told
        draft, messages = await self._alerts.evaluate(
            in_order(batch, {place - count for place in told if place >= count}, {place for place in told if place < count})
        )
        await self._write_alerts(batch, draft, messages)
        if late := late_hours(batch, self._rolled_until):
            await write_marks(self._connection, late)
        await self._connection.execute("COMMIT")
        self._alerts.settle(draft, messages)
        done = careful.upserted
        return Committed(done.stored, done.merged, done.duplicate + batch.duplicates, refused)

    async def _insert_halves(self, readings: Sequence[Reading], first: int, careful: _Careful) -> None:
        if not readings:
            return
        try:
            async with self._connection.transaction():
                outcome = await upsert_readings(self._connection, readings, careful.stored)
        except psycopg.Error as error:
            if remedy(error.sqlstate) is not Remedy.BISECT:
                raise
            if _reason(error) is Reason.NO_PARTITION:
                await self._expect_partitions(readings)
            if len(readings) > 1:
                middle = len(readings) // 2
                await self._insert_halves(readings[:middle], first, careful)
                await self._insert_halves(readings[middle:], first + middle, careful)
            else:
                careful.refused.append((first, _reason(error), f"{error.sqlstate}: {one_line(error)}"))
            return
        total = careful.upserted
        total.stored, total.merged = total.stored + outcome.stored, total.merged + outcome.merged
        total.duplicate += outcome.duplicate
        total.conflicts += [first + place for place in outcome.conflicts]
        total.told.update(first + place for place in outcome.told)
        conflicts = set(outcome.conflicts)
        careful.accepted += [first + place for place in range(len(readings)) if place not in conflicts]
        careful.stored += readings

    async def _expect_partitions(self, readings: Sequence[Reading]) -> None:
        """A day that readings are kept for has no partition: our fault, not the reading's, and no reason to give it up.

        Raises:
            PartitionMissing: wait until it is made.
        """
        cursor = await self._connection.execute(PARTITION_NAMES_SQL)
        names = {name for (name,) in await cursor.fetchall()}
        oldest = self._clock() - self._kept
        days = {reading.recorded_at.astimezone(UTC).date() for reading in readings if reading.recorded_at >= oldest}
        missing = sorted(day for day in days if partition_name(day) not in names)
        if missing:
            self._on_missing_partition()
            raise PartitionMissing(
                f"readings of {missing[0]} have no partition; set database.owner_url, or run factoryd migrate as the owner"
            )

    def _conflict(self, reading: Reading, origin: Origin) -> Quarantined:
        detail = f"another reading of {reading.recorded_at.isoformat()} is stored, and it contradicts this one"
        return quarantined_row(reading, origin, self._name(reading), Reason.CONFLICT, detail)

    def _name(self, reading: Reading) -> str | None:
        device = self._registry.by_id.get(reading.device_id)
        return device.name if device else None


def _is_plain(batch: Batch) -> bool:
    """Tells whether a batch is nothing but a few new readings, one per device: what comes at low load."""
    return (
        0 < len(batch.fresh) == len(batch.latest) <= SMALL_BATCH
        and not batch.rest
        and not batch.streams
        and not batch.flagged
        and not batch.replayed
        and not len(batch.refused)
    )


def _latest(batch: Batch, conflicts: Sequence[int]) -> Collection[Reading]:
    """Returns the newest values per device of a batch; `conflicts` are the places in `rest` of what was not accepted."""
    if not conflicts:
        return batch.latest.values()
    left_out, doubtful = set(conflicts), {batch.rest[place].device_id for place in conflicts}
    rest = [reading for place, reading in enumerate(batch.rest) if place not in left_out and reading.device_id in doubtful]
    anew = _newest_values([reading for reading in batch.fresh if reading.device_id in doubtful], rest)
    return {**{number: reading for number, reading in batch.latest.items() if number not in doubtful}, **anew}.values()


def _newest_values(fresh: Sequence[Reading], rest: Sequence[Reading]) -> dict[int, Reading]:
    """Folds accepted readings; late data from before the batch's first new reading says nothing about now."""
    first: dict[int, datetime] = {}
    for reading in fresh:
        first.setdefault(reading.device_id, reading.recorded_at)
    for reading in sorted(rest, key=_recorded_at, reverse=True):
        first.setdefault(reading.device_id, reading.recorded_at)
    latest: dict[int, Reading] = {}
    for reading in sorted([*fresh, *rest], key=_recorded_at):
        if reading.recorded_at >= first[reading.device_id]:
            prior = latest.get(reading.device_id)
            latest[reading.device_id] = reading if prior is None else merge_latest(prior, reading)
    return latest


def _recorded_at(reading: Reading) -> datetime:
    return reading.recorded_at


def _reason(error: psycopg.Error) -> Reason:
    if error.sqlstate == FOREIGN_KEY:
        return Reason.UNKNOWN_DEVICE
    if error.sqlstate == NO_PARTITION:
        return {None: Reason.NO_PARTITION, SEAL: Reason.TOO_LATE}.get(error.diag.constraint_name, Reason.REFUSED)
    return Reason.REFUSED
