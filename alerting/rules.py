"""PURE. One rule's state machine: normal → pending → active → recovering → normal. Time is an argument.

A breach is beyond a limit; clear is at or inside the limit less the dead band; in between is the dead band, which cancels
pending, holds active, and takes recovering back to active under the same alert. NaN and a missing value are no evidence.
Elapsed time is evidence, too: it is measured between samples, never by our clock, and two samples further apart than
`max_gap` begin the delay anew. A sample from a backlog (not `fresh`) may resolve, but never raises: an alert that only a
backlog has seen is latent until fresh evidence confirms it. Source: issue 3, part 1 and 2; OPC UA Part 9 for the delays.
"""

from datetime import datetime, timedelta
from enum import Enum, StrEnum

import msgspec
from msgspec.structs import replace

from alerting.alert import Rule, Side

FLAP_CHANGES = 5
FLAP_WINDOW = timedelta(minutes=10)
FLAP_FIRST_HOLD = timedelta(seconds=30)
"""What is doubled when a flapping rule has a shorter off-delay, or none."""
FLAP_LONGEST_HOLD = timedelta(hours=1)


class Phase(StrEnum):
    """Where a rule stands."""

    NORMAL = "normal"
    PENDING = "pending"
    ACTIVE = "active"
    RECOVERING = "recovering"


class Step(Enum):
    """What a sample brought about."""

    RAISE = "raise"
    RESOLVE = "resolve"
    FLAP = "flap"
    """Would have resolved, for the fifth change within ten minutes: held active, with a longer off-delay."""
    PASSED = "passed"
    """A latent alert is over: it was never live."""


class RuleState(msgspec.Struct, frozen=True, gc=False):
    """Where one rule stands, and since when. Immutable; `advance` returns the next."""

    phase: Phase = Phase.NORMAL
    since: datetime | None = None
    """Begin of pending or recovering."""
    at: datetime | None = None
    """Last evidence."""
    value: float | None = None
    peak: float | None = None
    side: Side | None = None
    crossed_at: datetime | None = None
    """When it became active."""
    latent: bool = False
    changes: tuple[datetime, ...] = ()
    """Last raises and resolves, for flapping."""
    doublings: int = 0
    flapping: bool = False
    shelved_until: datetime | None = None
    """Sticky shelving: the next alert inherits it."""

    @property
    def raised(self) -> bool:
        """Active or recovering, latent or not."""
        return self.phase is Phase.ACTIVE or self.phase is Phase.RECOVERING


NORMAL = RuleState()


def breached(rule: Rule, value: float) -> Side | None:
    """Returns the side of the limit that the value is beyond, if any."""
    if rule.high is not None and value > rule.high:
        return Side.HIGH
    if rule.low is not None and value < rule.low:
        return Side.LOW
    return None


def is_clear(rule: Rule, value: float) -> bool:
    """Tells whether the value is inside the limits and outside the dead band."""
    return (rule.high is None or value <= rule.high - rule.hysteresis) and (
        rule.low is None or value >= rule.low + rule.hysteresis
    )


def advance(rule: Rule, state: RuleState, at: datetime, value: float, *, fresh: bool = True) -> tuple[RuleState, Step | None]:
    """Takes one sample, not older than the last one, and returns the next state.

    Args:
        rule: its limits and delays.
        state: where it stands.
        at: evaluation time of the sample.
        value: in the metric's unit; NaN changes nothing.
        fresh: False for a sample from a backlog.
    """
    if value != value:  # noqa: PLR0124 - NaN
        return state, None
    side = breached(rule, value)
    gap = rule.max_gap is not None and state.at is not None and at - state.at > rule.max_gap
    if state.raised:
        return _advance_raised(rule, state, at, value, side, fresh=fresh, gap=gap)
    if side is None:
        if state.phase is Phase.NORMAL:
            return state, None
        return replace(state, phase=Phase.NORMAL, since=None, at=at, value=value, side=None, peak=None), None
    since = state.since if state.phase is Phase.PENDING and not gap and state.since is not None else at
    if at - since < rule.on_delay:
        return replace(state, phase=Phase.PENDING, since=since, at=at, value=value, side=side), None
    return _raise(state, at, value, side, fresh=fresh)


def _raise(state: RuleState, at: datetime, value: float, side: Side, *, fresh: bool) -> tuple[RuleState, Step | None]:
    raised = replace(
        state, phase=Phase.ACTIVE, since=None, at=at, value=value, peak=value, side=side, crossed_at=at, latent=not fresh
    )
    return (_changed(raised, at), Step.RAISE) if fresh else (raised, None)


def _advance_raised(
    rule: Rule, state: RuleState, at: datetime, value: float, side: Side | None, *, fresh: bool, gap: bool
) -> tuple[RuleState, Step | None]:
    if side is not None:
        peak = value if state.peak is None or side is not state.side else _worse(side, state.peak, value)
        now = replace(state, phase=Phase.ACTIVE, since=None, at=at, value=value, peak=peak, side=side)
        if state.latent and fresh:
            return _changed(replace(now, latent=False), at), Step.RAISE
        return now, None
    if not is_clear(rule, value):
        return replace(state, phase=Phase.ACTIVE, since=None, at=at, value=value), None
    since = state.since if state.phase is Phase.RECOVERING and not gap and state.since is not None else at
    if at - since < off_delay(rule, state):
        return replace(state, phase=Phase.RECOVERING, since=since, at=at, value=value), None
    return resolve(replace(state, at=at, value=value, since=since), at)


def resolve(state: RuleState, at: datetime) -> tuple[RuleState, Step]:
    """Ends a raised state, unless it flaps: then it is held, once per alert."""
    over = replace(state, phase=Phase.NORMAL, since=None, peak=None, side=None, crossed_at=None, latent=False, flapping=False)
    if state.latent:
        return over, Step.PASSED
    changed = _changed(state, at)
    if changed.flapping and not state.flapping:
        return replace(changed, phase=Phase.RECOVERING, since=at), Step.FLAP
    return _noted(over, at), Step.RESOLVE


def off_delay(rule: Rule, state: RuleState) -> timedelta:
    """Returns how long a value must be clear: longer while flapping."""
    if not state.flapping:
        return rule.off_delay
    doubled: timedelta = max(rule.off_delay, FLAP_FIRST_HOLD) * 2 ** min(state.doublings, 20)
    return max(rule.off_delay, min(FLAP_LONGEST_HOLD, doubled))


def _changed(state: RuleState, at: datetime) -> RuleState:
    """Notes a raise, or a resolve that is about to be: with the fifth within ten minutes the rule is flapping."""
    quiet = bool(state.changes) and at - state.changes[-1] >= 2 * FLAP_WINDOW
    noted = _noted(replace(state, changes=(), doublings=0) if quiet else state, at)
    if len(noted.changes) < FLAP_CHANGES and not noted.doublings:
        return noted
    if state.flapping:
        return noted
    return replace(noted, flapping=True, doublings=noted.doublings + 1)


def _noted(state: RuleState, at: datetime) -> RuleState:
    recent = tuple(moment for moment in state.changes if at - moment < FLAP_WINDOW)
    return replace(state, changes=(*recent, at)[-FLAP_CHANGES:])


def _worse(side: Side, one: float, other: float) -> float:
    return max(one, other) if side is Side.HIGH else min(one, other)
