"""PURE. What rules would have raised and resolved, had the readings of a stretch of the past come in order."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from alerting.alert import Rule, Side
from alerting.rules import NORMAL, Step, advance
from alerting.watches import NEVER
from ingest.reading import METRICS, Reading


class Episode(NamedTuple):
    """From a crossing to its end, in event time."""

    rule: Rule
    crossed_at: datetime
    resolved_at: datetime
    side: Side
    peak: float


class Replay:
    """Takes readings in order of time, piece by piece; `found` are the episodes that have ended."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule, METRICS.index(rule.metric) + 1 if rule.metric in METRICS else 0) for rule in rules]
        self._states = [NORMAL] * len(rules)
        self._at = NEVER
        self.found: list[Episode] = []

    def feed(self, readings: Iterable[Reading]) -> None:
        """Evaluates the next piece."""
        for reading in readings:
            # A clock that was ahead and then put right: evaluation times do not go back.
            at = self._at = max(self._at, min(reading.recorded_at, reading.received_at))
            for number, (rule, place) in enumerate(self._rules):
                value = reading[place] if place else (reading.extra or {}).get(rule.metric)
                if isinstance(value, (int, float)):
                    self._sample(number, rule, at, float(value))

    def _sample(self, number: int, rule: Rule, at: datetime, value: float) -> None:
        before = self._states[number]
        self._states[number], step = advance(rule, before, at, value)
        if step is Step.RESOLVE and before.crossed_at is not None and before.side is not None:
            peak = before.peak if before.peak is not None else value
            self.found.append(Episode(rule, before.crossed_at, at, before.side, peak))
