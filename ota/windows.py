"""PURE. Maintenance windows: `mon-fri 22:00-04:00 Europe/Berlin`, several divided by `;`; when they are open.

A window opens when the clock on the wall first shows its begin, and closes when it first shows its end. So in spring the hour
that the clock skips is not there, and in autumn the hour that comes twice does not open a window a second time.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALL_DAYS = frozenset(range(7))
TIMES = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)", re.ASCII)
EXAMPLE = "write it like mon-fri 22:00-04:00 Europe/Berlin, or 01:00-05:00 UTC for every day"
MOST = 20
AHEAD_DAYS = 15
"""A weekly window that a clock change swallows comes a week later."""


class BadWindow(ValueError):
    """A text is no maintenance window; says what to write."""


class Span(NamedTuple):
    """A window on one date: from `opens` up to and without `closes`, both in UTC."""

    opens: datetime
    closes: datetime


class Window(NamedTuple):
    """One window, by the clock on the wall."""

    days: frozenset[int]
    """On which it opens; Monday is 0."""
    begin: time
    length: timedelta
    """Up to a day, by the clock on the wall."""
    zone: ZoneInfo

    def spans(self, now: datetime) -> Iterator[Span]:
        """Yields its spans from yesterday on, in their order."""
        today = now.astimezone(self.zone).date()
        for ahead in range(-1, AHEAD_DAYS):
            day = today + timedelta(days=ahead)
            if day.weekday() in self.days:
                span = self._on(day)
                if span.opens < span.closes:
                    yield span

    def _on(self, day: date) -> Span:
        begin = datetime.combine(day, self.begin)
        return Span(_first_shown(begin, self.zone), _first_shown(begin + self.length, self.zone))


class Windows(NamedTuple):
    """Open when one of them is."""

    windows: Sequence[Window]

    def is_open(self, now: datetime) -> bool:
        """Tells whether something may begin."""
        return any(span.opens <= now < span.closes for window in self.windows for span in window.spans(now))

    def next_opening(self, now: datetime) -> datetime:
        """Returns when one opens next, in UTC; `now` if one is open."""
        if self.is_open(now):
            return now
        return min(next(span.opens for span in window.spans(now) if span.opens > now) for window in self.windows)


def read_windows(text: str) -> Windows:
    """Returns the windows that a text says.

    Raises:
        BadWindow: it says none.
    """
    parts = [part.split() for part in text.split(";") if part.strip()]
    if not parts:
        raise BadWindow(f"a window is empty; {EXAMPLE}")
    if len(parts) > MOST:
        raise BadWindow(f"{len(parts)} windows are too many, at most {MOST} can be given")
    return Windows([_window(part) for part in parts])


def _window(words: Sequence[str]) -> Window:
    if len(words) not in {2, 3}:
        raise BadWindow(f"{' '.join(words)[:80]!r} is no window; {EXAMPLE}")
    days = _days(words[0]) if len(words) == 3 else ALL_DAYS
    begin, length = _times(words[-2])
    return Window(days, begin, length, _zone(words[-1]))


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise BadWindow(f"{part[:40]!r} is no day and no span of days: use {', '.join(DAYS)}, such as mon-fri or sat,sun")
        begin = DAYS.index(first)
        count = (DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + number) % 7 for number in range(count + 1))
    return frozenset(days)


def _times(text: str) -> tuple[time, timedelta]:
    found = TIMES.fullmatch(text)
    if found is None:
        raise BadWindow(f"{text[:40]!r} is no span of times; {EXAMPLE}")
    hour, minute, end_hour, end_minute = map(int, found.groups())
    begin, end = 60 * hour + minute, 60 * end_hour + end_minute
    if minute > 59 or end_minute > 59 or hour > 23 or end > 24 * 60:
        raise BadWindow(f"{text} has a time that no clock shows; from 00:00 to 24:00")
    if begin == end:
        raise BadWindow(f"{text} begins when it ends; 00:00-24:00 is a whole day")
    return time(hour, minute), timedelta(minutes=end - begin if end > begin else 24 * 60 + end - begin)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadWindow(f"{name[:60]!r} is no time zone; use one such as Europe/Berlin or UTC") from error


def _first_shown(wall: datetime, zone: ZoneInfo) -> datetime:
    """Returns when the clock of a zone first shows a time, or, if it skips it, a later one."""
    local = wall.replace(tzinfo=zone)
    shown = local.astimezone(UTC)
    if shown.astimezone(zone).replace(tzinfo=None) == wall:
        return shown
    # The clock skips it: the moment of the change is between what the two offsets make of it.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while shown - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(shown - before) // timedelta(seconds=2))
        if middle.astimezone(zone).replace(tzinfo=None) >= wall:
            shown = middle
        else:
            before = middle
    return shown
