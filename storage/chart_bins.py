"""PURE. How a chart is divided: which readings or roll-ups it is made of, and into which equal bins.

Bins are whole and aligned, so the first begins at or before the asked span and the last ends at or after it; charts of
readings, minutes and hours therefore say the same of the same time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.refusals import InvalidInput
from storage.rollup_sql import HOUR, MINUTE

RAW_UP_TO = timedelta(hours=2)
MINUTES_UP_TO = timedelta(days=2)
ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""Where `date_bin` counts from, as in the roll-ups."""
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
MIN_POINTS, MAX_POINTS = 2, 2_000
LENGTHS = {MINUTE: timedelta(minutes=1), HOUR: timedelta(hours=1)}
_SECONDS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 14_400, 21_600, 28_800, 43_200)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Division:
    """How a chart is made."""

    since: datetime
    """Begin of the first bin."""
    until: datetime
    """End of the last bin."""
    width: timedelta
    table: str | None
    """The roll-up for it; None: readings."""


@dataclass(frozen=True, slots=True)
class Stretches:
    """From where to where a chart takes which rows; ends are exclusive, and an empty stretch has equal ends."""

    old: tuple[datetime, datetime]
    """Readings from before the first bucket: roll-ups do not reach so far back."""
    rolled: tuple[datetime, datetime]
    new: tuple[datetime, datetime]
    """Readings that are not rolled up yet."""


def divide(since: datetime, until: datetime, points: int) -> Division:
    """Returns the finest division into at most `points` bins.

    Args:
        since: aware.
        until: aware, later.
        points: MIN_POINTS to MAX_POINTS.

    Raises:
        InvalidInput: too few or too many points, or a time that no device has lived in.
    """
    if not MIN_POINTS <= points <= MAX_POINTS:
        raise InvalidInput(f"points: {points} is not from {MIN_POINTS} to {MAX_POINTS}")
    if not EARLIEST <= since < until <= LATEST:
        raise InvalidInput(f"a chart is of a time between {EARLIEST:%Y} and {LATEST:%Y}")
    span = until - since
    table = None if span <= RAW_UP_TO else MINUTE if span <= MINUTES_UP_TO else HOUR
    shortest = LENGTHS[table] if table else timedelta(0)
    for width in _widths():
        begin, end = floor(since, width), -((ORIGIN - until) // width) * width + ORIGIN
        if width >= shortest and (end - begin) // width <= points:
            return Division(begin, end, width, table)
    raise AssertionError("widths have no end")


def floor(moment: datetime, width: timedelta) -> datetime:
    """Returns the begin of the bin that a moment is in."""
    return (moment - ORIGIN) // width * width + ORIGIN


def stretches(division: Division, rolled_until: datetime | None, first: datetime | None) -> Stretches:
    """Returns what is taken from where.

    An hour that is not over when the mark stands in it is taken from readings: repairs may have put later minutes into it.

    Args:
        division: of the chart.
        rolled_until: the mark of the roll-ups; None: there are none.
        first: the device's first bucket; None: there is none.
    """
    since, until = division.since, division.until
    if division.table is None or rolled_until is None or first is None:
        return Stretches((since, until), (until, until), (until, until))
    begin = min(max(since, first), until)
    end = min(max(begin, floor(rolled_until, LENGTHS[division.table])), until)
    return Stretches((since, begin), (begin, end), (end, until))


def _widths() -> Iterator[timedelta]:
    yield from (timedelta(seconds=seconds) for seconds in _SECONDS)
    days = 1
    while True:
        yield days * _DAY
        days = 2 if days == 1 else 7 if days == 2 else 2 * days
