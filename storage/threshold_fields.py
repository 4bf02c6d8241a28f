"""PURE. What a threshold says, for one device or for a class of them, and whether it can be so.

The database's own checks stand behind these, and hold for plain SQL, too.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from alerting.alert import NO_DATA_METRIC, OFFLINE_METRIC, Rule, Severity
from storage.refusals import InvalidInput

METRIC = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
RESERVED = {OFFLINE_METRIC, NO_DATA_METRIC}
LONGEST_S = 30 * 86_400
MAX_INSTRUCTION = 2_000
GAP_INTERVALS = 3
"""Without a max-gap of its own a threshold has so many of its device's intervals."""
SELECTABLE = ("type", "location", "via", "owner", "device")
"""By what a class selects its devices."""
_NEXT_PART = re.compile(rf",\s*(?=(?:{'|'.join(SELECTABLE)})\s*=)")

Selector = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a threshold says, by the names and in the units of its columns (the metric: metric_type)."""

    metric: str
    min_value: float | None = None
    max_value: float | None = None
    severity: str = Severity.WARNING.value
    enabled: bool = True
    for_seconds: float = 0.0
    hysteresis: float = 0.0
    clear_seconds: float = 0.0
    max_gap_seconds: float | None = None
    no_data_seconds: float | None = None
    instruction: str | None = None
    owner: str | None = None
    """Login; None: the owner of the device, else `system`."""

    @property
    def sides(self) -> frozenset[str]:
        """What it watches for."""
        watched = {"min": self.min_value, "max": self.max_value, "no-data": self.no_data_seconds}
        return frozenset(name for name, value in watched.items() if value is not None)


def check_threshold(threshold: Threshold) -> None:
    """Raises InvalidInput, with the first thing that cannot be."""
    check_metric(threshold.metric)
    if threshold.severity not in set(Severity):
        raise InvalidInput(f"severity: {threshold.severity[:40]!r} is none: use {', '.join(Severity)}")
    _check_limits(threshold)
    for name, seconds in (("for", threshold.for_seconds), ("clear", threshold.clear_seconds)):
        _check_seconds(name, seconds)
    for name, limit in (("max-gap", threshold.max_gap_seconds), ("no-data", threshold.no_data_seconds)):
        if limit is not None:
            _check_seconds(name, limit)
            if limit == 0:
                raise InvalidInput(f"{name}: must be longer than nothing")
    instruction = threshold.instruction or ""
    if len(instruction) > MAX_INSTRUCTION:
        raise InvalidInput(f"instruction: {len(instruction)} characters are too many, at most {MAX_INSTRUCTION} fit")
    if not instruction.replace("\n", " ").isprintable():
        raise InvalidInput(f"instruction: {instruction[:80]!r} holds characters that cannot be printed")


def rule_of(threshold: Threshold, interval_s: float | None) -> Rule:
    """Returns the rule as the daemon goes by it (`storage.alert_book`), without its numbers.

    Args:
        threshold: one that can be.
        interval_s: of its device.
    """
    gap_s = threshold.max_gap_seconds
    if gap_s is None and interval_s is not None:
        gap_s = GAP_INTERVALS * interval_s
    return Rule(
        threshold_id=0,
        device_id=0,
        metric=threshold.metric,
        low=threshold.min_value,
        high=threshold.max_value,
        severity=Severity(threshold.severity),
        owner_id=0,
        on_delay=timedelta(seconds=threshold.for_seconds),
        hysteresis=threshold.hysteresis,
        off_delay=timedelta(seconds=threshold.clear_seconds),
        max_gap=timedelta(seconds=gap_s) if gap_s is not None else None,
        no_data_s=threshold.no_data_seconds,
        instruction=threshold.instruction,
    )


def check_metric(metric: str) -> None:
    """Raises InvalidInput unless a device may send a metric of that name."""
    if metric in RESERVED:
        raise InvalidInput(f"metric: {metric} is reserved for alerts about silence; see alerting.offline and no-data")
    if METRIC.fullmatch(metric) is None:
        raise InvalidInput(f"metric: {metric[:80]!r} cannot be a metric's name: use 1 to 100 of A-Z a-z 0-9 _ . : -")


def _check_limits(threshold: Threshold) -> None:
    low, high, dead_band = threshold.min_value, threshold.max_value, threshold.hysteresis
    for name, number in (("min", low), ("max", high), ("hysteresis", dead_band)):
        if number is not None and not math.isfinite(number):
            raise InvalidInput(f"{name}: must be a finite number")
    if not threshold.sides:
        raise InvalidInput("there is nothing to watch for: give min, max or no-data")
    if dead_band < 0:
        raise InvalidInput(f"hysteresis: {dead_band:g} is below 0")
    if low is None or high is None:
        return
    if low >= high:
        raise InvalidInput(f"min: {low:g} is not below max {high:g}")
    if low + dead_band > high - dead_band:
        widest = f"at most {(high - low) / 2:g} fits"
        raise InvalidInput(f"hysteresis: {dead_band:g} on both sides leaves nothing between {low:g} and {high:g}; {widest}")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds <= LONGEST_S:
        raise InvalidInput(f"{name}: must be from 0 s to {LONGEST_S // 86_400} days")


def read_selector(text: str) -> dict[str, str]:
    """Returns a selector such as type=press,location=hall-2; a value may hold commas.

    Raises:
        InvalidInput: it is none.
    """
    selector: dict[str, str] = {}
    for part in _NEXT_PART.split(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in SELECTABLE or not equals:
            raise InvalidInput(f"select: {part[:80]!r} is not one of {', '.join(SELECTABLE)}, =, and a value (* is any text)")
        if key in selector:
            raise InvalidInput(f"select: {key} is there twice")
        if not value or not value.isprintable():
            raise InvalidInput(f"select: {key} needs a printable value; * is any text")
        selector[key] = value
    return selector


def selector_text(selector: Selector) -> str:
    """Returns a selector as people write it, always in the same order."""
    order = [*SELECTABLE, *sorted(set(selector) - set(SELECTABLE))]
    return ",".join(f"{key}={selector[key]}" for key in order if key in selector)
