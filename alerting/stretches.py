"""PURE. A piece of one metric's past as arrays, and the stretches of it in which a rule's delays can elapse."""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alerting.alert import Rule

Times = NDArray[np.int64]
"""Microseconds since 1970."""
Values = NDArray[np.float64]
Places = NDArray[np.intp]
Mask = NDArray[np.bool_]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FOR_EVER = int(np.iinfo(np.int64).max)


class Stretches(NamedTuple):
    """Runs of samples that are alike, with no gap inside."""

    starts: Places
    ends: Places
    """Before these."""
    since: Times
    """Time of the first sample, which may be in an earlier piece."""
    last: Times


class Elapsed(NamedTuple):
    """Where a delay has elapsed, for each stretch in which it does."""

    places: Places
    starts: Places
    ends: Places
    since: Times


class Piece:
    """Samples as a rule with these limits and this gap sees them; what is found is kept for other dead bands and delays."""

    def __init__(self, rule: Rule, times: Times, values: Values, before: int | None = None) -> None:
        """Takes samples whose times never fall and whose values are no NaN, and the time of the last one before them."""
        self.times = times
        self.values = values
        self._low = rule.low
        self._high = rule.high
        max_gap = FOR_EVER if rule.max_gap is None else rule.max_gap // MICROSECOND
        self.gaps: Places = np.flatnonzero(np.diff(times) > max_gap) + 1
        """Samples that come too long after the one before."""
        self.goes_on = before is not None and int(times[0]) - before <= max_gap
        """Its first sample does not come too long after the last one of the piece before."""
        self._clear: dict[float, Stretches] = {}

    def moment(self, place: int) -> datetime:
        """Returns the time of a sample."""
        return moment_of(int(self.times[place]))

    @cached_property
    def breaches(self) -> Stretches:
        """The stretches beyond a limit."""
        above = np.zeros(len(self.values), np.bool_) if self._high is None else self.values > self._high
        return self._stretches(above if self._low is None else above | (self.values < self._low))

    def clear(self, dead_band: float) -> Stretches:
        """Returns the stretches inside the limits and outside the dead band."""
        if dead_band not in self._clear:
            self._clear[dead_band] = self._stretches(self.is_clear(dead_band))
        return self._clear[dead_band]

    def is_clear(self, dead_band: float) -> Mask:
        """Tells which samples are inside the limits and outside the dead band."""
        below = np.ones(len(self.values), np.bool_) if self._high is None else self.values <= self._high - dead_band
        return below if self._low is None else below & (self.values >= self._low + dead_band)

    def elapsed(self, stretches: Stretches, delay: timedelta) -> Elapsed:
        """Finds the first sample of each stretch at which it has lasted for a delay."""
        wanted = stretches.since + delay // MICROSECOND
        lasting = stretches.last >= wanted
        starts = stretches.starts[lasting]
        places = np.maximum(np.searchsorted(self.times, wanted[lasting]), starts)
        return Elapsed(places, starts, stretches.ends[lasting], stretches.since[lasting])

    def _stretches(self, alike: Mask) -> Stretches:
        border = np.empty(len(alike), np.bool_)
        border[0] = True
        np.not_equal(alike[1:], alike[:-1], out=border[1:])
        border[self.gaps] = True
        starts = np.flatnonzero(border)
        ends = np.append(starts[1:], len(alike))
        chosen = alike[starts]
        starts, ends = starts[chosen], ends[chosen]
        return Stretches(starts, ends, self.times[starts], self.times[ends - 1])


def moment_of(microseconds: int) -> datetime:
    """Returns a time as aware UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds_of(moment: datetime) -> int:
    """Returns microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND
