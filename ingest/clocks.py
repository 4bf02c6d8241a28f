"""PURE. Device clocks: what a time in a payload means, and what to do with one that cannot be right."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from ingest.reading import Reason

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_CLOCK_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
"""A device that says an earlier time has no clock: it counts from its boot, or from 1970 or 2000."""

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?\s?(Z|z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)
# From 2001 on, an epoch number in a unit is larger than any of the unit before until the year 5138: the ranges do not meet.
_UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))


class BadTime(ValueError):
    """A time that cannot be read; `reason` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class TimeWindow(NamedTuple):
    """The times that readings may be stored at."""

    oldest: datetime
    newest: datetime

    @classmethod
    def around(cls, received_at: datetime, retention: timedelta, skew: timedelta) -> "TimeWindow":
        """Returns the window for messages received at that moment."""
        return cls(received_at - retention, received_at + skew)


def epoch_time(value: float) -> datetime:
    """Returns the moment of an epoch number; its magnitude says seconds, milliseconds, microseconds or nanoseconds.

    Raises:
        BadTime: not finite, negative, or beyond all units.
    """
    if value >= 0:
        for bound, per_second in _UNITS:
            if value < bound:
                if isinstance(value, int):
                    return EPOCH + timedelta(microseconds=value * 1_000_000 // per_second)
                return EPOCH + timedelta(seconds=value / per_second)
    raise BadTime(Reason.BAD_TIME, f"{value!r:.40} is not an epoch time in s, ms, µs or ns")


def read_time(value: object, zone: tzinfo | None) -> datetime:
    """Returns the moment that a JSON or MessagePack value states.

    Args:
        value: RFC 3339 text, an epoch number, or a datetime (MessagePack timestamp).
        zone: where the device stands, for a local time without offset; a time that occurs twice is its first occurrence.

    Raises:
        BadTime: with the reason `bad_time` or `naive_timestamp`.
    """
    match value:
        case bool():
            raise BadTime(Reason.BAD_TIME, "a boolean is not a time")
        case int() | float():
            return epoch_time(value)
        case datetime():
            return _placed(value, zone)
        case str():
            return _placed(_read_text(value), zone)
        case _:
            raise BadTime(Reason.BAD_TIME, f"a time must be text or a number, not {type(value).__name__}")


def _read_text(text: str) -> datetime:
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise BadTime(Reason.BAD_TIME, f"{text[:40]!r} is not an RFC 3339 time like 2026-11-22T10:00:00.123Z")
    date, time, fraction, offset = found.groups()
    try:
        whole = datetime.fromisoformat(f"{date}T{time}{(offset or '').upper()}")
        return whole + _microseconds(fraction) if fraction else whole
    except (ValueError, OverflowError) as error:
        raise BadTime(Reason.BAD_TIME, f"{text[:40]!r}: {error}") from error


def _microseconds(fraction: str) -> timedelta:
    """Rounded to the nearest, as the typed decoder does: a time must be the same whichever way it came."""
    return timedelta(microseconds=(int(f"{fraction:0<7}"[:7]) + 5) // 10)


def _placed(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is None:
        if zone is None:
            raise BadTime(
                Reason.NAIVE_TIMESTAMP,
                f"{moment.isoformat()} has no offset from UTC; set the device's zone: factoryd device edit --timezone",
            )
        moment = moment.replace(tzinfo=zone)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise BadTime(Reason.BAD_TIME, f"{moment.isoformat()} is beyond the calendar") from error
