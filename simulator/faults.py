"""PURE. Faults on demand: what a broken machine or sensor makes of good values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Fault(StrEnum):
    """What can go wrong with one machine."""

    OVERHEATING = "overheating"
    """Temperature climbs by 60 °C with a time constant of two minutes; a tenth more power."""
    BEARING_WEAR = "bearing-wear"
    """Vibration grows tenfold over ten minutes, then stays; the bearing warms up."""
    STUCK = "stuck"
    """The sensor repeats the value it had when the fault began."""
    NAN = "nan"
    """The metric is not a number."""
    BAD_PAYLOAD = "bad-payload"
    """The message is cut off in the middle."""
    SPIKE = "spike"
    """One reading is far off; the fault is over with it."""


SPOILING = frozenset({Fault.NAN, Fault.BAD_PAYLOAD})
"""With these a reading's place is the quarantine, not the table of readings."""


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """A fault of one machine since a moment."""

    fault: Fault
    since: datetime
    metric: str | None = None
    """The metric it hits (STUCK, NAN, SPIKE); None = the machine's first."""
    rate: float = 1.0
    """How many times faster than described it develops (OVERHEATING, BEARING_WEAR)."""


Values = dict[str, float | bool]


def apply_faults(
    values: Mapping[str, float | bool],
    faults: Sequence[ActiveFault],
    at: datetime,
    frozen: Mapping[datetime, Mapping[str, float | bool]],
) -> Values:
    """Returns the values a machine with these faults reports.

    Args:
        values: the healthy values at `at`.
        faults: what is wrong, in order of injection.
        at: the time of the reading.
        frozen: healthy values at the `since` of each STUCK fault.
    """
    changed = dict(values)
    for active in faults:
        changed |= _changes(active, changed, at, frozen.get(active.since, {}))
    return changed


def spoils(faults: Sequence[ActiveFault]) -> bool:
    """Tells whether a reading under these faults can only be quarantined."""
    return any(active.fault in SPOILING for active in faults)


def _changes(
    active: ActiveFault, values: Mapping[str, float | bool], at: datetime, frozen: Mapping[str, float | bool]
) -> Values:
    age_s = max(0.0, (at - active.since).total_seconds()) * active.rate
    metric = active.metric or next(iter(values))
    match active.fault:
        case Fault.OVERHEATING:
            return _overheated(values, 1.0 - math.exp(-age_s / 120.0))
        case Fault.BEARING_WEAR:
            return _worn(values, min(1.0, age_s / 600.0))
        case Fault.STUCK:
            return {metric: frozen[metric]} if metric in frozen else {}
        case Fault.NAN:
            return {metric: math.nan}
        case Fault.SPIKE:
            return {metric: round(values[metric] * 8.0 + 50.0, 3)} if metric in values else {}
        case Fault.BAD_PAYLOAD:
            return {}


def _overheated(values: Mapping[str, float | bool], progress: float) -> Values:
    hotter: Values = {"temperature": round(values.get("temperature", 20.0) + 60.0 * progress, 2)}
    if "power_consumption" in values:
        hotter["power_consumption"] = round(values["power_consumption"] * (1.0 + 0.1 * progress), 1)
    return hotter


def _worn(values: Mapping[str, float | bool], progress: float) -> Values:
    worn: Values = {"vibration": round(max(values.get("vibration", 0.05), 0.05) * 10.0**progress, 3)}
    if "temperature" in values:
        worn["temperature"] = round(values["temperature"] + 8.0 * progress, 2)
    return worn
