"""PURE. A rule over stored readings: the alerts it would have raised, and what would halve their number.

The past comes in pieces, and none is kept: beside the rule itself, dead bands and on-delays that might help go through every
piece, so that what is suggested has been tried on every reading. The rule is the daemon's own (`alerting.rules.advance`), and
the readings are taken as if each had come in time: this is what the daemon would have done, had there been no late ones.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import floor, log10

import numpy as np

from alerting.alert import Rule
from alerting.backtest_run import PastAlert, Run
from alerting.rules import FLAP_WINDOW
from alerting.stretches import Piece, Times, Values, moment_of

ON_DELAYS_S = (1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600)
DIGITS = (1, 1.5, 2, 3, 5, 7)
DECADES = 4
"""Of dead bands that are tried, from the size of the limits downwards."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A dead band (in the metric's unit) or an on-delay (in seconds), and how many alerts it would leave."""

    value: float
    alerts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule would have done."""

    readings: int
    """Those that were evaluated."""
    gaps: int
    """Of these, how many came so long after the one before that every delay began anew."""
    first: datetime | None
    last: datetime | None
    alerts: tuple[PastAlert, ...]
    dead_band: Suggestion | None
    """The least one tried that at least halves the alerts; None: there is none, or nothing to halve."""
    on_delay: Suggestion | None

    @property
    def in_alarm(self) -> timedelta:
        """How long an alert was open; one that still is counts until the last reading."""
        spans = ((alert.resolved_at or self.last or alert.triggered_at) - alert.triggered_at for alert in self.alerts)
        return sum(spans, timedelta())

    @property
    def flaps(self) -> int:
        """Alerts that were raised within FLAP_WINDOW of the end of the one before."""
        ends = ((before.resolved_at, after.triggered_at) for before, after in pairwise(self.alerts))
        return sum(resolved is not None and raised - resolved < FLAP_WINDOW for resolved, raised in ends)


class BackTest:
    """Feed it the past, piece by piece, then ask for the outcome."""

    def __init__(self, rule: Rule) -> None:
        self._run = Run(rule)
        self._damped = [Run(rule._replace(hysteresis=band), keep=False) for band in dead_bands(rule)]
        self._clear = [0] * len(self._damped)
        delays = [timedelta(seconds=seconds) for seconds in ON_DELAYS_S]
        self._delayed = [Run(rule._replace(on_delay=delay), keep=False) for delay in delays if delay > rule.on_delay]
        self._readings = self._gaps = 0
        self._mark: int | None = None
        self._first: int | None = None
        self._last: int | None = None

    def feed(self, times: Times, values: Values) -> None:
        """Takes the next readings, by evaluation time; one that is older than any before it is late, and left out.

        Args:
            times: microseconds since 1970.
            values: in the metric's unit; NaN is no evidence.
        """
        if not len(times):
            return
        newest = np.maximum.accumulate(times if self._mark is None else np.maximum(times, self._mark))
        self._mark = int(newest[-1])
        evaluated = (times == newest) & ~np.isnan(values)
        if not evaluated.all():
            times, values = times[evaluated], values[evaluated]
        if len(times):
            self._evaluate(Piece(self._run.rule, times, values, self._last))

    def _evaluate(self, piece: Piece) -> None:
        self._readings += len(piece.times)
        self._gaps += len(piece.gaps) + (self._last is not None and not piece.goes_on)
        self._first = int(piece.times[0]) if self._first is None else self._first
        self._last = int(piece.times[-1])
        for run in (self._run, *self._damped, *self._delayed):
            run.feed(piece)
        for number, run in enumerate(self._damped):
            self._clear[number] += int(np.count_nonzero(piece.is_clear(run.rule.hysteresis)))

    def outcome(self) -> Outcome:
        """Returns what the rule has done so far."""
        usual = [run for run, clear in zip(self._damped, self._clear, strict=True) if 2 * clear >= self._readings]
        damped, delayed = self._halving(usual), self._halving(self._delayed if 2 * self._gaps < self._readings else [])
        return Outcome(
            readings=self._readings,
            gaps=self._gaps,
            first=None if self._first is None else moment_of(self._first),
            last=None if self._last is None else moment_of(self._last),
            alerts=tuple(self._run.alerts),
            dead_band=None if damped is None else Suggestion(damped.rule.hysteresis, damped.count),
            on_delay=None if delayed is None else Suggestion(delayed.rule.on_delay.total_seconds(), delayed.count),
        )

    def _halving(self, runs: list[Run]) -> Run | None:
        return next((run for run in runs if 1 < self._run.count >= 2 * run.count), None)


def dead_bands(rule: Rule) -> list[float]:
    """Returns those that are tried, rising: DIGITS of the limits' order of magnitude, and of those below it."""
    low, high = rule.low, rule.high
    size = (high - low) / 2 if low is not None and high is not None else abs(high or low or 1.0)
    least = floor(log10(size)) - DECADES + 1
    tried = [float(f"{digit}e{least + decade}") for decade in range(DECADES) for digit in DIGITS]
    fits = [band for band in tried if low is None or high is None or low + band <= high - band]
    return [band for band in fits if band > rule.hysteresis]
