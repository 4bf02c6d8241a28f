"""PURE. One rule through pieces of the past, in leaps: `advance` stays the one truth, but is asked only where it can raise or
resolve.

That is the first sample at which a breach has lasted for the on-delay, or a clear stretch for the off-delay. All samples in
between move nothing but the last evidence and the peak. Feeding every sample to `advance` gives the very same alerts, wherever
the past is cut into pieces (tests/unit/test_backtest.py).
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from alerting.alert import Rule, Side
from alerting.rules import NORMAL, Phase, Step, advance, off_delay
from alerting.stretches import Elapsed, Mask, Piece, Stretches, Values, microseconds_of, moment_of


class PastAlert(NamedTuple):
    """An alert that would have been. `resolved_at` None: still open at the last reading."""

    triggered_at: datetime
    resolved_at: datetime | None
    side: Side
    peak: float
    """The worst value on that side."""
    flapping: bool
    """Held active: its end was put off."""


class Run:
    """One rule, and where it stands after the last piece. `keep`: the alerts, not only their number."""

    def __init__(self, rule: Rule, *, keep: bool = True) -> None:
        self.rule = rule
        self.count = 0
        self._keep = keep
        self._state = NORMAL
        self._ended: list[PastAlert] = []
        self._begin = NORMAL
        """Where it stood before the present piece …"""
        self._elapsed: dict[tuple[bool, timedelta], Elapsed] = {}
        """… and what is known of that piece: of breaches and clear stretches, by delay."""
        self._held: int | None = None
        """The sample of that piece at which a resolve was held, for flapping: its clear stretch counts from there."""

    @property
    def alerts(self) -> list[PastAlert]:
        """Those that are kept, in order; the last may be open."""
        return [*self._ended, self._alert(None)] if self._keep and self._state.raised else self._ended

    def feed(self, piece: Piece) -> None:
        """Takes the next samples."""
        self._begin, self._elapsed, self._held = self._state, {}, None
        seen = 0
        while (place := self._next(piece, seen)) is not None:
            self._see(piece.values[seen:place])
            self._ask(piece, place)
            seen = place + 1
        self._see(piece.values[seen:])
        self._rest(piece)

    def _next(self, piece: Piece, seen: int) -> int | None:
        """Returns the next sample that raises, or if it is raised, resolves."""
        elapsed = self._waited_for(piece)
        number = int(np.searchsorted(elapsed.ends, seen, "right"))
        return int(elapsed.places[number]) if number < len(elapsed.ends) else None

    def _waited_for(self, piece: Piece) -> Elapsed:
        raised = self._state.raised
        delay = off_delay(self.rule, self._state) if raised else self.rule.on_delay
        if (raised, delay) not in self._elapsed:
            self._elapsed[raised, delay] = piece.elapsed(self._stretches(piece), delay)
        return self._elapsed[raised, delay]

    def _stretches(self, piece: Piece) -> Stretches:
        """Returns breaches, or if it is raised, clear stretches; the first one may have begun before this piece."""
        raised, begin = self._state.raised, self._begin
        stretches = piece.clear(self.rule.hysteresis) if raised else piece.breaches
        since = stretches.since.copy()
        if begin.since is not None and begin.raised is raised and piece.goes_on and 0 in stretches.starts[:1]:
            since[0] = microseconds_of(begin.since)
        if raised and self._held is not None:
            since[np.searchsorted(stretches.starts, self._held, "right") - 1] = piece.times[self._held]
        return stretches._replace(since=since)

    def _ask(self, piece: Piece, place: int) -> None:
        """Gives one sample to `advance`, the state being what the samples of its stretch before it have made of it."""
        elapsed, state, at = self._waited_for(piece), self._state, piece.moment(place)
        number = int(np.searchsorted(elapsed.ends, place, "right"))
        if place > elapsed.starts[number]:
            phase = Phase.RECOVERING if state.raised else Phase.PENDING
            since = moment_of(int(elapsed.since[number]))
            state = replace(state, phase=phase, since=since, at=piece.moment(place - 1))
        after, step = advance(self.rule, state, at, float(piece.values[place]))
        if step is Step.RAISE:
            self.count += 1
        elif step is Step.FLAP:
            self._held, self._elapsed = place, {}
        elif step is Step.RESOLVE and self._keep:
            self._ended.append(self._alert(at))
        self._state = after

    def _rest(self, piece: Piece) -> None:
        """Leaves the state as the last sample of a piece does."""
        stretches = self._stretches(piece)
        lasting = len(stretches.ends) > 0 and bool(stretches.ends[-1] == len(piece.times))
        phases = (Phase.ACTIVE, Phase.RECOVERING) if self._state.raised else (Phase.NORMAL, Phase.PENDING)
        since = moment_of(int(stretches.since[-1])) if lasting else None
        self._state = replace(self._state, phase=phases[lasting], since=since, at=piece.moment(-1))

    def _see(self, values: Values) -> None:
        """Notes what samples do that neither raise nor resolve: a peak, on the side of the last breach."""
        state, rule = self._state, self.rule
        if not self._keep or not state.raised:
            return
        high = -1 if rule.high is None else _last(values > rule.high)
        low = -1 if rule.low is None else _last(values < rule.low)
        if high == low:
            return
        side = Side.HIGH if high > low else Side.LOW
        own = values[min(high, low) + 1 :]
        peak = float(own.max() if side is Side.HIGH else own.min())
        if min(high, low) < 0 and side is state.side and state.peak is not None:
            peak = max(peak, state.peak) if side is Side.HIGH else min(peak, state.peak)
        self._state = replace(state, side=side, peak=peak)

    def _alert(self, resolved_at: datetime | None) -> PastAlert:
        state = self._state
        assert state.crossed_at is not None
        assert state.side is not None
        assert state.peak is not None
        return PastAlert(state.crossed_at, resolved_at, state.side, state.peak, state.flapping)


def _last(mask: Mask) -> int:
    """Returns the last place that is true, -1 if none is."""
    places = np.flatnonzero(mask)
    return int(places[-1]) if len(places) else -1
