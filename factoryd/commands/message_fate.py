"""PURE. Puts together what a message said and what the database shows: stored, merged, duplicate or rejected, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ingest.decoding import Decoded
from ingest.merging import merged
from ingest.reading import METRICS, Reading, Rejected, Sample
from storage.fates import RefusedRow, StoredRow

MAX_REMEMBERED = 10_000


class Fate(NamedTuple):
    """What became of one reading."""

    result: str
    """stored, merged, duplicate, rejected, or unseen."""
    recorded_at: datetime | None
    detail: str = ""


@dataclass(slots=True)
class Awaited:
    """One reading, or refused part, of a message, and its bytes."""

    item: Sample | Rejected
    raw: bytes


@dataclass(slots=True)
class Facts:
    """What the database shows now."""

    dated: Mapping[datetime, StoredRow] = field(default_factory=dict)
    undated: Sequence[StoredRow] = ()
    refused: Sequence[RefusedRow] = ()


class Memory:
    """What was told already: a row is the answer to one reading only."""

    def __init__(self) -> None:
        self._told: dict[datetime, Reading] = {}
        self._refused: set[int] = set()

    def settle(self, awaited: Awaited, facts: Facts) -> Fate | None:
        """Returns what became of it, or None if the database does not show it yet."""
        item = awaited.item
        if isinstance(item, Sample):
            found = self._undated(item, facts) if item.recorded_at is None else self._dated(item, item.recorded_at, facts)
            if found is not None:
                return found
        return self._refusal(awaited, facts.refused)

    def _dated(self, sample: Sample, moment: datetime, facts: Facts) -> Fate | None:
        row = facts.dated.get(moment)
        if row is None or not _says(row.reading, sample):
            return None
        said, known = _reading(sample, row.reading), self._told.get(moment)
        if known is None:
            self._remember(moment, said)
            return Fate(_first_told(row), moment)
        both = merged(known, said)
        if both is None or both == known:
            return Fate("duplicate", moment)
        self._remember(moment, both)
        return Fate("merged", moment)

    def _undated(self, sample: Sample, facts: Facts) -> Fate | None:
        for row in facts.undated:
            moment = row.reading.recorded_at
            if moment not in self._told and row.is_changed and _same(row.reading, sample):
                self._remember(moment, row.reading)
                return Fate("stored", moment, "at its time of receipt")
        return None

    def _refusal(self, awaited: Awaited, refused: Iterable[RefusedRow]) -> Fate | None:
        item = awaited.item
        for row in refused:
            if row.id in self._refused or (isinstance(item, Rejected) and item.reason != row.reason):
                continue
            if row.flood:
                return Fate("rejected", None, f"{row.reason}: {row.detail} (one of many: counted only)")
            if row.payload == awaited.raw:
                self._refused.add(row.id)
                return Fate("rejected", None, f"{row.reason}: {row.detail} (quarantine {row.id})")
        return None

    def _remember(self, moment: datetime, reading: Reading) -> None:
        self._told[moment] = reading
        if len(self._told) > MAX_REMEMBERED:
            del self._told[next(iter(self._told))]


def awaited_parts(decoded: Decoded, payload: bytes, parts: Sequence[bytes]) -> list[Awaited]:
    """Returns what is awaited of a message, each with its own bytes as the quarantine would keep them."""
    samples = [Awaited(sample, parts[sample.index] if sample.index < len(parts) else payload) for sample in decoded.samples]
    return samples + [Awaited(rejected, rejected.payload) for rejected in decoded.rejected]


def _first_told(row: StoredRow) -> str:
    if not row.is_changed:
        return "duplicate"
    return "stored" if row.is_new else "merged"


def _values(reading: Reading) -> dict[str, object]:
    columns = dict(zip(METRICS, reading[1:7], strict=True))
    return {name: value for name, value in columns.items() if value is not None} | dict(reading.extra or {})


def _says(reading: Reading, sample: Sample) -> bool:
    stored = _values(reading)
    return all(name in stored and stored[name] == value for name, value in _values(_reading(sample, reading)).items())


def _same(reading: Reading, sample: Sample) -> bool:
    return _values(reading) == _values(_reading(sample, reading))


def _reading(sample: Sample, like: Reading) -> Reading:
    columns = [getattr(sample, name) for name in METRICS]
    return Reading._make((like.device_id, *columns, like.recorded_at, like.received_at, sample.extra))
