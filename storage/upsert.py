"""The merging upsert: for readings that may repeat or complete a stored row. The slower of the two write paths.

Same device and same time again: identical → duplicate; disjoint metrics → merged into the one row; conflicting → the first
stays. `ingest.merging` states the rule in Python, for repetitions inside one batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from ingest.merging import merged, same
from ingest.reading import METRICS, Extra, Reading
from storage.database import Connection

COLUMNS = ("device_id", *METRICS, "recorded_at", "received_at", "extra")
TYPES = ("int8", *("float8" for _ in METRICS), "timestamptz", "timestamptz", "jsonb")
GIVEN = f"json_to_recordset(%s) AS t ({', '.join(f'{name} {kind}' for name, kind in zip(COLUMNS, TYPES, strict=True))})"
"""Readings in a statement, as `given` makes them: one text in JSON costs the driver a third of an array per column."""


def _upsert_statement() -> str:
    conflict = " OR ".join(f"coalesce(r.{name} <> excluded.{name}, false)" for name in METRICS)
    conflict += " OR coalesce(r.extra || excluded.extra <> excluded.extra || r.extra, false)"
    updates = ", ".join(
        f"{name} = CASE WHEN {conflict} THEN r.{name} ELSE coalesce(r.{name}, excluded.{name}) END" for name in METRICS
    )
    says_more = " OR ".join(f"r.{name} IS DISTINCT FROM coalesce(excluded.{name}, r.{name})" for name in METRICS)
    return f"""
        INSERT INTO sensor_readings AS r ({", ".join(COLUMNS)}) SELECT * FROM {GIVEN}
        ON CONFLICT (device_id, recorded_at) DO UPDATE SET {updates},
            extra = CASE WHEN {conflict} THEN r.extra
                    ELSE nullif(coalesce(r.extra, '{{}}') || coalesce(excluded.extra, '{{}}'), '{{}}') END
        WHERE {says_more}
            OR coalesce(r.extra, '{{}}') <> coalesce(r.extra, '{{}}') || coalesce(excluded.extra, '{{}}')
        RETURNING {", ".join(f"r.{name}" for name in COLUMNS)}, r.created_at = now()"""  # noqa: S608 - names are our constants


UPSERT = _upsert_statement()
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Upserted:
    """What became of each reading, by its place in the list given."""

    stored: int = 0
    merged: int = 0
    duplicate: int = 0
    conflicts: list[int] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    """Those that said something new: stored or merged."""


async def upsert_readings(connection: Connection, readings: Sequence[Reading], present: Iterable[Reading] = ()) -> Upserted:
    """Stores readings of any age, inside the caller's transaction.

    Args:
        connection: inside a transaction.
        readings: of any age, in order of arrival.
        present: what this transaction has stored already: its rows look new, but are not ours.

    Raises:
        psycopg.Error: a row cannot be stored at all; none of them was.
    """
    outcome, moments = Upserted(), _moments(readings)
    if not moments:
        return outcome
    cursor = await connection.execute(UPSERT, given(moment.together for moment in moments.values()))
    returned = {(row[0], row[7]): row for row in await cursor.fetchall()}
    known = {(reading[0], reading[7]) for reading in present}
    contested: list[Reading] = []
    for key, moment in moments.items():
        row = returned.get(key)
        if row is not None and not _says(row, moment.together):
            contested += moment.judge_alone(row, outcome)
        else:
            moment.judge(outcome, row is None, row is not None and row[-1] and key not in known)
    if contested:
        await connection.execute(UPSERT, given(contested))
    return outcome


def given(readings: Iterable[Reading]) -> list[str]:
    """Returns the parameter for GIVEN. Floats keep every digit, times are to the microsecond, numbers in `extra` as sent."""
    return [_encode([reading._asdict() for reading in readings]).decode()]


@dataclass(slots=True)
class _Moment:
    """All readings of one device and moment: one statement may not touch a row twice, so they go as one."""

    together: Reading
    members: list[tuple[int, Reading]]
    conflicts: list[int] = field(default_factory=list)
    duplicate: int = 0
    new: list[int] = field(default_factory=list)

    def add(self, place: int, reading: Reading) -> None:
        self.members.append((place, reading))
        both = merged(self.together, reading)
        if both is None:
            self.conflicts.append(place)
        elif both == self.together:
            self.duplicate += 1
        else:
            self.together = both
            self.new.append(place)

    def judge(self, outcome: Upserted, is_known: bool, is_new: bool) -> None:
        """Counts them: `is_known` if the stored row said it all before, `is_new` if there was no row."""
        accepted = len(self.members) - len(self.conflicts)
        duplicate = accepted if is_known else self.duplicate
        if not is_known:
            outcome.told.update(self.new)
        outcome.conflicts += self.conflicts
        outcome.duplicate += duplicate
        outcome.stored += is_new
        outcome.merged += accepted - duplicate - is_new

    def judge_alone(self, row: Sequence[Any], outcome: Upserted) -> list[Reading]:
        """Together they contradict the stored row: each is held against it alone. Returns what the row lacks, if anything."""
        stored = now = Reading._make(row[:10])
        for place, reading in self.members:
            both = merged(now, reading)
            if both is None:
                outcome.conflicts.append(place)
            elif both == now:
                outcome.duplicate += 1
            else:
                outcome.merged += 1
                outcome.told.add(place)
                now = both
        return [] if now == stored else [now]


def _moments(readings: Sequence[Reading]) -> dict[tuple[int, datetime], _Moment]:
    moments: dict[tuple[int, datetime], _Moment] = {}
    for place, reading in enumerate(readings):
        key = (reading.device_id, reading.recorded_at)
        if key in moments:
            moments[key].add(place, reading)
        else:
            moments[key] = _Moment(reading, [(place, reading)], new=[place])
    return moments


def _says(row: Sequence[Any], reading: Reading) -> bool:
    """Tells whether a stored row says all that the reading says."""
    if any(value is not None and stored != value for stored, value in zip(row[1:7], reading[1:7], strict=True)):
        return False
    stored_extra: Extra = row[9] or {}
    return all(name in stored_extra and same(stored_extra[name], value) for name, value in (reading.extra or {}).items())
