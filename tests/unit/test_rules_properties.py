"""One rule's state machine, by property: what must hold whatever the signal, the delays, the gaps and the backlog."""

import math
import pickle
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import NamedTuple

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from alerting.alert import Rule, Severity, Side
from alerting.rules import NORMAL, Phase, RuleState, Step, advance, breached

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
START = datetime(2026, 5, 20, 12, tzinfo=UTC)
NAN = float("nan")
NO_DELAY = timedelta()
CALM_S = 151
"""Samples this far apart cannot change five times within ten minutes: nothing flaps."""


class Sample(NamedTuple):
    at: datetime
    value: float
    fresh: bool


class Moved(NamedTuple):
    """A sample, and the state on either side of it."""

    sample: Sample
    before: RuleState
    after: RuleState
    step: Step | None


Samples = list[Sample]
numbers = st.sampled_from([-5.0, 5.0, 19.0, 20.0, 21.0, 25.0, 26.0, 50.0, 74.0, 75.0, 79.0, 80.0, 81.0, 95.0, 140.0])
pauses = st.sampled_from([1, 2, 5, 10, 20, 30, 60, 61, 150, 400, 599, 600, 1199, 1200, 4000])
calm_pauses = st.sampled_from([CALM_S, 200, 300, 600, 601, 1200, 1201, 3000])
freshness = st.sampled_from([True, True, True, False])


def delays(unit: int) -> st.SearchStrategy[timedelta]:
    return st.sampled_from([0, 1, 2, 4]).map(lambda times: timedelta(seconds=times * unit))


@st.composite
def rules(draw: st.DrawFn, unit: int = 10) -> Rule:
    low, high = draw(st.sampled_from([(20.0, 80.0), (None, 80.0), (20.0, None)]))
    max_gap = draw(st.none() | st.just(timedelta(seconds=6 * unit)))
    dead_band = draw(st.sampled_from([0.0, 1.0, 5.0, 30.0]))
    return Rule(1, 7, "temperature", low, high, Severity.WARNING, 3, draw(delays(unit)), dead_band, draw(delays(unit)), max_gap)


def signals(
    between: st.SearchStrategy[int] = pauses, *, holes: bool = False, backlog: bool = True
) -> st.SearchStrategy[Samples]:
    """Samples of strictly rising times."""
    values = numbers | st.just(NAN) if holes else numbers
    return st.lists(st.tuples(between, values, freshness if backlog else st.just(True)), max_size=40).map(
        lambda parts: [
            Sample(START + timedelta(seconds=second), value, fresh)
            for second, (_, value, fresh) in zip(accumulate(pause for pause, _, _ in parts), parts, strict=True)
        ]
    )


@st.composite
def trains(draw: st.DrawFn) -> Samples:
    """A sample a second: pulses of some width, as flapping signals are."""
    parts = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 90), st.integers(1, 25)), min_size=1, max_size=8))
    values = [value for on, off, times in parts for value in ([90.0] * on + [50.0] * off) * times]
    return [Sample(START + timedelta(seconds=second), value, True) for second, value in enumerate(values)]


def moves(rule: Rule, samples: Iterable[Sample], state: RuleState = NORMAL) -> list[Moved]:
    taken = []
    for sample in samples:
        before = state
        state, step = advance(rule, before, sample.at, sample.value, fresh=sample.fresh)
        taken.append(Moved(sample, before, state, step))
    return taken


def last(taken: list[Moved]) -> RuleState:
    return taken[-1].after if taken else NORMAL


def steps(taken: list[Moved]) -> list[tuple[datetime, Step]]:
    return [(move.sample.at, move.step) for move in taken if move.step is not None]


def is_well(rule: Rule, value: float) -> bool:
    """Clear, in the contract's words."""
    above = rule.low is None or value >= rule.low + rule.hysteresis
    return above and (rule.high is None or value <= rule.high - rule.hysteresis)


def run_length(rule: Rule, samples: Samples, *, well: bool) -> timedelta | None:
    """How long the samples have been clear, or else in breach, without a gap, at the last one; None if it is not."""
    length, begin = None, None
    for sample in reversed(samples):
        alike = is_well(rule, sample.value) if well else breached(rule, sample.value) is not None
        if not alike or (begin is not None and rule.max_gap is not None and begin - sample.at > rule.max_gap):
            break
        begin = sample.at
        length = samples[-1].at - begin
    return length


@quick
@given(rules(), signals(holes=True))
def test_a_duplicate_of_the_last_sample_changes_nothing(rule: Rule, samples: Samples) -> None:
    for move in moves(rule, samples):
        again, step = advance(rule, move.after, *move.sample[:2], fresh=move.sample.fresh)
        assert (again, step) == (move.after, None)


@quick
@given(rules(), signals(), st.lists(st.integers(0, 40), max_size=5))
def test_batch_boundaries_and_restarts_change_nothing(rule: Rule, samples: Samples, cuts: list[int]) -> None:
    state, parts, other = NORMAL, list[Moved](), rule._replace(threshold_id=2, high=60.0, low=40.0, hysteresis=0.0)
    edges = [0, *sorted(min(cut, len(samples)) for cut in cuts), len(samples)]
    for begin, end in pairwise(edges):
        part = moves(rule, samples[begin:end], state)
        moves(other, samples[begin:end])
        parts += part
        pickled: RuleState = pickle.loads(pickle.dumps(part[-1].after if part else state))
        state = RuleState(**asdict(pickled))
    assert parts == moves(rule, samples)


@quick
@given(rules(), signals(), st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=8))
def test_nan_anywhere_changes_nothing(rule: Rule, samples: Samples, places: list[tuple[int, bool]]) -> None:
    holed = list(samples)
    for place, fresh in places:
        moment = samples[min(place, len(samples) - 1)].at if samples else START
        holed.append(Sample(moment + timedelta(milliseconds=500), NAN, fresh))
    holed.sort(key=lambda sample: sample.at)
    taken, pure = moves(rule, holed), moves(rule, samples)
    assert (last(taken), steps(taken)) == (last(pure), steps(pure))
    assert all(move.after == move.before for move in taken if math.isnan(move.sample.value))


@quick
@given(rules(), signals())
def test_steps_follow_each_other_as_an_alert_lives(rule: Rule, samples: Samples) -> None:
    up = told = False
    for _, before, after, step in moves(rule, samples):
        match step:
            case Step.RAISE:
                assert not up
                up, told = True, False
            case Step.RESOLVE:
                assert up
                up = False
            case Step.FLAP:
                assert (up, told) == (True, False)
                told = True
            case Step.PASSED:
                assert not up
                assert before.latent
        assert up is (after.raised and not after.latent)
        assert after.latent <= after.raised
        assert (after.since is not None) is (after.phase in {Phase.PENDING, Phase.RECOVERING})
        assert (after.crossed_at is not None, after.side is not None) == (after.raised, after.phase is not Phase.NORMAL)
        assert not (before.raised and after.raised) or after.crossed_at == before.crossed_at


@quick
@given(rules(), signals())
def test_only_evidence_of_the_whole_delay_raises_and_resolves(rule: Rule, samples: Samples) -> None:
    for place, (sample, before, after, step) in enumerate(moves(rule, samples), start=1):
        seen = samples[:place]
        if after.raised and not before.raised:
            length = run_length(rule, seen, well=False)
            assert length is not None
            assert length >= rule.on_delay
            assert after.crossed_at == sample.at
        if before.raised and not after.raised:
            length = run_length(rule, seen, well=True)
            assert length is not None
            assert length >= rule.off_delay
        assert step is not Step.RAISE or (sample.fresh and breached(rule, sample.value) is after.side)


@quick
@given(rules(unit=300), signals(calm_pauses))
def test_without_flapping_the_runs_of_evidence_say_it_all(rule: Rule, samples: Samples) -> None:
    raised = latent = False
    for place, (sample, _, after, step) in enumerate(moves(rule, samples), start=1):
        bad, well = (run_length(rule, samples[:place], well=kind) for kind in (False, True))
        expected = None
        if raised and well is not None and well >= rule.off_delay:
            raised, expected = False, Step.PASSED if latent else Step.RESOLVE
        elif bad is not None and (raised or bad >= rule.on_delay):
            expected = Step.RAISE if sample.fresh and (latent or not raised) else None
            latent = not sample.fresh and (latent or not raised)
            raised = True
        assert (after.raised, after.raised and after.latent, step) == (raised, raised and latent, expected)


@quick
@given(rules(unit=0), signals(backlog=False))
def test_without_delays_and_dead_band_it_is_a_comparison(rule: Rule, samples: Samples) -> None:
    taken = moves(rule._replace(hysteresis=0.0), samples)
    for sample, _, after, _ in taken:
        beyond = (rule.high is not None and sample.value > rule.high) or (rule.low is not None and sample.value < rule.low)
        assert after.raised >= beyond
        assert after.raised is beyond or after.flapping
        assert after.phase is not Phase.PENDING


@quick
@given(rules(unit=300), signals(calm_pauses, backlog=False), st.floats(0.5, 40))
def test_a_wider_dead_band_never_gives_more_alerts(rule: Rule, samples: Samples, more: float) -> None:
    narrow = moves(rule, samples)
    wide = moves(rule._replace(hysteresis=rule.hysteresis + more), samples)
    assert sum(move.step is Step.RAISE for move in wide) <= sum(move.step is Step.RAISE for move in narrow)
    assert all(one.after.raised >= other.after.raised for one, other in zip(wide, narrow, strict=True))


@quick
@given(rules(), signals())
def test_the_peak_is_the_worst_of_the_present_side(rule: Rule, samples: Samples) -> None:
    run: list[float] = []
    for sample, before, after, _ in moves(rule, samples):
        if not after.raised:
            assert after.peak is None
            continue
        side = breached(rule, sample.value)
        if side is not None:
            run = [*run, sample.value] if before.raised and before.side is side else [sample.value]
        assert after.side is (side or before.side)
        assert after.peak == (max(run) if after.side is Side.HIGH else min(run))


@quick
@given(rules(), signals())
def test_both_limits_are_alike(rule: Rule, samples: Samples) -> None:
    turned = rule._replace(low=None if rule.high is None else -rule.high, high=None if rule.low is None else -rule.low)
    mirror = moves(turned, [sample._replace(value=-sample.value) for sample in samples])
    for (_, _, after, step), (_, _, image, image_step) in zip(moves(rule, samples), mirror, strict=True):
        assert step is image_step
        assert replace(after, value=None, peak=None, side=None) == replace(image, value=None, peak=None, side=None)
        assert after.peak == (None if image.peak is None else -image.peak)
        assert (after.side is image.side) is (after.side is None)


@settings(quick, max_examples=100)
@given(rules(), trains())
def test_flapping_is_bounded_in_any_ten_minutes(rule: Rule, samples: Samples) -> None:
    """Five changes and the flap, and after it only what fits between holds of 60, 120 and 240 s, with three steps each."""
    assume(rule.high is not None)
    moments = [moment for moment, _ in steps(moves(rule, samples))]
    for place, moment in enumerate(moments):
        assert sum(later - moment < timedelta(minutes=10) for later in moments[place:]) <= 15
