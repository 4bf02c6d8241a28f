"""PURE. What a batch refuses, and the gate that keeps one broken device from filling the quarantine.

The one stated exception to "nothing lost": beyond the limit of a device and hour, one sample per reason is kept and the rest
are counted.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from ingest.reading import Quarantined, Reason

MAX_DEVICES = 100_000
"""Names counted at a time; unknown devices can have any name, so the count must not grow without bound."""


class FloodGate:
    """Counts quarantined readings per device within the hour."""

    def __init__(self, per_device_hour: int) -> None:
        self._limit = per_device_hour
        self._hour: datetime | None = None
        self._counts: dict[str, int] = {}

    def admits(self, quarantined: Quarantined) -> bool:
        """Counts one, and tells whether it may be kept with its bytes."""
        hour = hour_of(quarantined.received_at)
        if self._hour is None or hour > self._hour:  # a replay's older hour counts to the present one
            self._hour = hour
            self._counts.clear()
        name = quarantined.device or quarantined.topic
        if name not in self._counts and len(self._counts) >= MAX_DEVICES:
            name = ""
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name] <= self._limit

    def takes_back(self, quarantined: Quarantined) -> None:
        """Uncounts one: the transaction that would have kept it failed, and will be tried again."""
        name = quarantined.device or quarantined.topic
        name = name if name in self._counts else ""
        self._counts[name] = max(0, self._counts.get(name, 0) - 1)


@dataclass(slots=True)
class Flood:
    """What was not kept of one device, reason and hour: how many, and the last of them."""

    sample: Quarantined
    count: int = 1


@dataclass(slots=True)
class Refusals:
    """The quarantine rows of one batch, and the counts of what was beyond the limit."""

    gate: FloodGate
    kept: list[Quarantined] = field(default_factory=list)
    floods: dict[tuple[str | None, Reason, datetime], Flood] = field(default_factory=dict)
    _since_copy: list[Quarantined] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kept) + self.flooded

    @property
    def flooded(self) -> int:
        """How many were counted only."""
        return sum(flood.count for flood in self.floods.values()) if self.floods else 0

    def add(self, quarantined: Quarantined) -> None:
        """Keeps one reading with its bytes, or counts it if its device floods us."""
        self._since_copy.append(quarantined)
        if self.gate.admits(quarantined):
            self.kept.append(quarantined)
            return
        key = (quarantined.device, quarantined.reason, hour_of(quarantined.received_at))
        flood = self.floods.get(key)
        self.floods[key] = Flood(quarantined, flood.count + 1 if flood else 1)

    def copy(self) -> "Refusals":
        """Returns a copy that can grow without this one: a failed transaction must leave no trace."""
        return replace(self, kept=list(self.kept), floods=dict(self.floods), _since_copy=[])

    def undo(self) -> None:
        """Takes back what was added since `copy`, as far as the gate is concerned."""
        for quarantined in self._since_copy:
            self.gate.takes_back(quarantined)


def hour_of(moment: datetime) -> datetime:
    """Returns the beginning of the hour."""
    return moment.replace(minute=0, second=0, microsecond=0)
