"""One rule's state machine, cell by cell, and the signals that alarms are known to fail on."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from alerting.alert import Rule, Severity, Side
from alerting.rules import NORMAL, Phase, RuleState, Step, advance, breached, is_clear, off_delay

START = datetime(2026, 5, 20, 12, tzinfo=UTC)
NAN = float("nan")
LIMITS = Rule(1, 7, "temperature", 20.0, 80.0, Severity.WARNING, 3)
"""No delays, no dead band, any gap."""
RULE = LIMITS._replace(
    hysteresis=5.0, on_delay=timedelta(seconds=10), off_delay=timedelta(seconds=20), max_gap=timedelta(seconds=60)
)
HOT, COLD, FINE = 82.0, 18.0, 50.0
RAISE, RESOLVE, FLAP, PASSED = Step.RAISE, Step.RESOLVE, Step.FLAP, Step.PASSED


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def feed(
    rule: Rule, samples: Iterable[tuple[float, float]], state: RuleState = NORMAL, *, fresh: bool = True
) -> tuple[RuleState, list[tuple[float, Step]]]:
    """Returns the last state, and each step with its second."""
    steps = []
    for second, value in samples:
        state, step = advance(rule, state, at(second), value, fresh=fresh)
        if step is not None:
            steps.append((second, step))
    return state, steps


def mirrored(value: float) -> float:
    """The limits lie even about 50."""
    return 100.0 - value


class TestAValue:
    @pytest.mark.parametrize(
        ("value", "side"),
        [(80.001, Side.HIGH), (80.0, None), (50.0, None), (20.0, None), (19.999, Side.LOW), (NAN, None)],
    )
    def test_is_a_breach_only_beyond_a_limit(self, value: float, side: Side | None) -> None:
        assert breached(RULE, value) is side

    @pytest.mark.parametrize(
        ("value", "clear"),
        [(81, False), (80, False), (75.001, False), (75, True), (25, True), (24.999, False), (20, False), (19, False)],
    )
    def test_is_clear_from_the_inner_edge_of_the_dead_band(self, value: float, clear: bool) -> None:
        assert is_clear(RULE, value) is clear

    @pytest.mark.parametrize("value", [80.0, 20.0])
    def test_at_a_limit_without_a_dead_band_is_clear(self, value: float) -> None:
        assert is_clear(LIMITS, value)

    def test_that_is_no_number_is_not_clear(self) -> None:
        assert not is_clear(RULE, NAN)

    def test_is_never_beyond_a_limit_that_is_not_set(self) -> None:
        only_high, only_low = RULE._replace(low=None), RULE._replace(high=None)
        assert (breached(only_high, -1e9), is_clear(only_high, -1e9)) == (None, True)
        assert (breached(only_low, 1e9), is_clear(only_low, 1e9)) == (None, True)


# What each phase makes of each sample: the last sample was at 0 s, the next one comes at these seconds. A letter is the phase
# after it; * its delay begins with this sample; ! a step was taken (A! raised, N! resolved); = not even the evidence is newer.
SECONDS = (9, 10, 19, 20, 60, 61)
HISTORIES: dict[Phase, list[tuple[float, float]]] = {
    Phase.NORMAL: [(0, FINE)],
    Phase.PENDING: [(0, HOT)],
    Phase.ACTIVE: [(-10, HOT), (0, HOT)],
    Phase.RECOVERING: [(-20, HOT), (-10, HOT), (0, FINE)],
}
SAMPLES = {"breach": (81.0, 19.0), "dead band": (80.0, 75.5, 24.5, 20.0), "clear": (75.0, 50.0, 25.0), "NaN": (NAN,)}
CELLS = [
    (Phase.NORMAL, "breach", "P* P* P* P* P* P*"),
    (Phase.NORMAL, "dead band", "N N N N N N"),
    (Phase.NORMAL, "clear", "N N N N N N"),
    (Phase.NORMAL, "NaN", "N N N N N N"),
    (Phase.PENDING, "breach", "P A! A! A! A! P*"),
    (Phase.PENDING, "dead band", "N N N N N N"),
    (Phase.PENDING, "clear", "N N N N N N"),
    (Phase.PENDING, "NaN", "= = = = = ="),
    (Phase.ACTIVE, "breach", "A A A A A A"),
    (Phase.ACTIVE, "dead band", "A A A A A A"),
    (Phase.ACTIVE, "clear", "R* R* R* R* R* R*"),
    (Phase.ACTIVE, "NaN", "= = = = = ="),
    (Phase.RECOVERING, "breach", "A A A A A A"),
    (Phase.RECOVERING, "dead band", "A A A A A A"),
    (Phase.RECOVERING, "clear", "R R R N! N! R*"),
    (Phase.RECOVERING, "NaN", "= = = = = ="),
]


def described(before: RuleState, after: RuleState, step: Step | None, moment: datetime) -> str:
    if after == before and before.phase is not Phase.NORMAL:
        assert step is None
        return "="
    assert after.at == moment or after.phase is before.phase is Phase.NORMAL
    assert step in {None, RAISE if after.raised else RESOLVE}
    delayed = after.phase in {Phase.PENDING, Phase.RECOVERING}
    assert after.since in ({moment, START} if delayed else {None})
    return after.phase[0].upper() + "*" * (after.since == moment) + "!" * (step is not None)


@pytest.mark.parametrize("mirror", [False, True], ids=["max", "min"])
@pytest.mark.parametrize(
    ("phase", "value", "cells"),
    [pytest.param(phase, value, cells, id=f"{phase}-{value}") for phase, kind, cells in CELLS for value in SAMPLES[kind]],
)
def test_each_phase_takes_each_sample(phase: Phase, value: float, cells: str, mirror: bool) -> None:
    turn = mirrored if mirror else float
    before, _ = feed(RULE, [(second, turn(old)) for second, old in HISTORIES[phase]])
    assert before.phase is phase
    results = [(at(second), advance(RULE, before, at(second), turn(value))) for second in SECONDS]
    assert " ".join(described(before, *result, moment) for moment, result in results) == cells
    for _, (after, _) in results:
        if value != value:  # noqa: PLR0124 - NaN
            assert after == before
        if before.raised and after.raised:
            assert after.crossed_at == before.crossed_at
        if after.raised and value in {81.0, 19.0}:
            assert after.side is (Side.HIGH if turn(value) > 50 else Side.LOW)


class TestDelays:
    def test_of_zero_raise_and_resolve_at_the_first_sample(self) -> None:
        state, steps = feed(LIMITS, [(0, FINE), (1, HOT), (2, 80.0)])
        assert steps == [(1, RAISE), (2, RESOLVE)]
        assert state.phase is Phase.NORMAL

    @pytest.mark.parametrize("max_gap", [None, timedelta(seconds=60)])
    def test_of_zero_need_no_neighbouring_sample(self, max_gap: timedelta | None) -> None:
        rule = LIMITS._replace(max_gap=max_gap)
        assert feed(rule, [(0, FINE), (9000, HOT), (20000, FINE)])[1] == [(9000, RAISE), (20000, RESOLVE)]

    def test_may_span_any_gap_when_none_is_too_large(self) -> None:
        rule = RULE._replace(max_gap=None)
        assert feed(rule, [(0, HOT), (9000, HOT), (9001, FINE), (20000, FINE)])[1] == [(9000, RAISE), (20000, RESOLVE)]

    def test_begin_anew_after_each_gap_and_elapse_after_the_last(self) -> None:
        samples = [(0, HOT), (61, HOT), (122, HOT), (131, HOT), (132, HOT), (140, FINE), (201, FINE), (220, FINE), (221, FINE)]
        assert feed(RULE, samples)[1] == [(132, RAISE), (221, RESOLVE)]

    def test_begin_anew_after_the_dead_band(self) -> None:
        samples = [(0, HOT), (9, 78), (10, HOT), (19, HOT), (20, HOT), (30, FINE), (49, 78), (50, FINE), (69, FINE), (70, FINE)]
        assert feed(RULE, samples)[1] == [(20, RAISE), (70, RESOLVE)]


def test_an_alert_knows_when_it_began_and_its_worst_value() -> None:
    state, _ = feed(RULE, [(0, 81), (10, 84), (15, 95), (20, 83), (25, FINE), (30, 78), (35, 90)])
    assert (state.crossed_at, state.side, state.peak) == (at(10), Side.HIGH, 95)


def test_a_jump_to_the_other_limit_is_the_same_alert_on_the_other_side() -> None:
    state, steps = feed(LIMITS, [(0, 95), (1, 12), (2, 5), (3, 8)])
    assert steps == [(0, RAISE)]
    assert (state.phase, state.side, state.peak, state.crossed_at) == (Phase.ACTIVE, Side.LOW, 5, at(0))


class TestABacklog:
    def test_raises_nothing_until_fresh_evidence_confirms_it(self) -> None:
        late, steps = feed(RULE, [(0, HOT), (10, HOT), (15, HOT), (20, 78)], fresh=False)
        assert (late.phase, late.latent, steps) == (Phase.ACTIVE, True, [])
        waiting, steps = feed(RULE, [(21, 78), (22, NAN)], late)
        assert (waiting.latent, steps) == (True, [])
        state, steps = feed(RULE, [(23, HOT), (24, HOT)], waiting)
        assert (state.latent, steps) == (False, [(23, RAISE)])

    def test_is_confirmed_out_of_recovering_too(self) -> None:
        late, steps = feed(RULE, [(0, HOT), (10, HOT), (20, FINE)], fresh=False)
        assert (late.phase, late.latent, steps) == (Phase.RECOVERING, True, [])
        assert feed(RULE, [(21, HOT)], late)[1] == [(21, RAISE)]

    @pytest.mark.parametrize("fresh", [False, True])
    def test_that_is_over_has_passed(self, fresh: bool) -> None:
        late, _ = feed(RULE, [(0, HOT), (10, HOT)], fresh=False)
        state, steps = feed(RULE, [(20, FINE), (39, FINE), (40, FINE)], late, fresh=fresh)
        assert (steps, state.phase, state.latent) == ([(40, PASSED)], Phase.NORMAL, False)

    def test_resolves_what_was_raised(self) -> None:
        state, _ = feed(RULE, [(0, HOT), (10, HOT)])
        assert feed(RULE, [(20, FINE), (40, FINE)], state, fresh=False)[1] == [(40, RESOLVE)]

    def test_counts_for_the_delay_of_a_fresh_sample(self) -> None:
        late, _ = feed(RULE, [(0, HOT), (9, HOT)], fresh=False)
        assert feed(RULE, [(10, HOT)], late)[1] == [(10, RAISE)]

    def test_does_not_hide_an_alert_that_is_up(self) -> None:
        state, _ = feed(RULE, [(0, HOT), (10, HOT)])
        state, steps = feed(RULE, [(20, HOT), (30, FINE), (31, HOT)], state, fresh=False)
        assert (state.phase, state.latent, steps) == (Phase.ACTIVE, False, [])


class TestFlapping:
    FIVE = ((0.0, HOT), (1.0, FINE), (2.0, HOT), (3.0, FINE), (4.0, HOT))
    STEPS = ((0.0, RAISE), (1.0, RESOLVE), (2.0, RAISE), (3.0, RESOLVE), (4.0, RAISE))
    SIGNAL = tuple((float(second), FINE if second % 2 else HOT) for second in range(3600))

    def test_of_a_signal_holds_its_third_alert(self) -> None:
        state, steps = feed(LIMITS, self.SIGNAL)
        assert [(second, step) for second, step in steps if step is not FLAP] == list(self.STEPS)
        assert (state.raised, state.flapping, state.crossed_at) == (True, True, at(4))

    def test_of_a_signal_is_told_once(self) -> None:
        """Its fifth change is a raise, and that says so itself: there is no second message about it."""
        assert FLAP not in [step for _, step in feed(LIMITS, self.SIGNAL)[1]]

    def test_is_told_instead_of_a_fifth_change_that_would_have_resolved(self) -> None:
        samples = [(0.0, HOT), (590.0, FINE), (592.0, HOT), (594.0, FINE), (601.0, HOT), (602.0, FINE)]
        before, steps = feed(LIMITS, samples[:-1])
        assert ([step for _, step in steps], before.flapping) == ([RAISE, RESOLVE, RAISE, RESOLVE, RAISE], False)
        state, steps = feed(LIMITS, samples[-1:], before)
        assert (steps, state.raised, state.flapping, state.crossed_at) == ([(602, FLAP)], True, True, at(601))
        assert feed(LIMITS, [(603, HOT), (604, FINE), (605, FINE), (606, HOT)], state)[1] == []

    def test_is_not_four_changes_in_ten_minutes(self) -> None:
        samples = [(151.0 * number, FINE if number % 2 else HOT) for number in range(40)]
        assert [step for _, step in feed(LIMITS, samples)[1]] == [RAISE, RESOLVE] * 20

    @pytest.mark.parametrize(
        ("normally", "doublings", "held"),
        [(0, 0, 30), (0, 1, 60), (20, 2, 120), (45, 0, 45), (45, 1, 90), (0, 7, 3600), (0, 500, 3600), (7200, 3, 7200)],
    )
    def test_doubles_the_off_delay_up_to_an_hour(self, normally: int, doublings: int, held: int) -> None:
        rule = LIMITS._replace(off_delay=timedelta(seconds=normally))
        assert off_delay(rule, RuleState(flapping=True, doublings=doublings)) == timedelta(seconds=held)
        assert off_delay(rule, RuleState()) == timedelta(seconds=normally)

    def hold(self, state: RuleState, second: float) -> tuple[RuleState, float]:
        """Feeds good values until it resolves; returns the second of it."""
        while True:
            state, step = advance(LIMITS, state, at(second), FINE)
            if step is RESOLVE:
                return state, second
            assert step in {None, FLAP}
            second += 1

    def test_holds_each_further_alert_twice_as_long(self) -> None:
        state, second = feed(LIMITS, self.FIVE)[0], 5.0
        holds = []
        for _ in range(4):
            state, end = self.hold(state, second)
            holds.append(end - second)
            state, steps = feed(LIMITS, [(end + 1, HOT)], state)
            assert steps == [(end + 1, RAISE)]
            second = end + 2
        assert holds[0] in {30, 60}
        assert holds == [holds[0] * 2**number for number in range(4)]

    @pytest.mark.parametrize(("quiet", "held"), [(19 * 60, True), (21 * 60, False)])
    def test_is_forgotten_after_twenty_quiet_minutes(self, quiet: int, held: bool) -> None:
        state, end = self.hold(feed(LIMITS, self.FIVE)[0], 5.0)
        state, steps = feed(LIMITS, [(end + second, FINE) for second in range(1, quiet)], state)
        assert steps == []
        state, steps = feed(LIMITS, [(end + quiet, HOT), (end + quiet + 1, FINE)], state)
        assert steps[0] == (end + quiet, RAISE)
        assert state.raised is held


def drift(rule: Rule) -> list[Step]:
    """Fifty minutes up through the limit and down again, with a sensor that trembles by 0.8."""
    level = [70 + 20 * (1 - abs(second - 3000) / 3000) for second in range(0, 6001, 5)]
    return [step for _, step in feed(rule, [(5 * n, value + (-0.8, 0.8)[n % 2]) for n, value in enumerate(level)])[1]]


class TestASlowDrift:
    def test_is_one_alert_with_a_dead_band_wider_than_the_noise(self) -> None:
        assert drift(LIMITS._replace(hysteresis=2.0)) == [RAISE, RESOLVE]

    def test_is_one_alert_with_delays_longer_than_the_noise(self) -> None:
        delay = timedelta(seconds=15)
        assert drift(LIMITS._replace(on_delay=delay, off_delay=delay)) == [RAISE, RESOLVE]

    def test_without_either_flaps_and_is_held(self) -> None:
        steps = drift(LIMITS)
        assert 1 < steps.count(RAISE) == steps.count(RESOLVE) < 8


class TestAnAlarm:
    def test_is_not_ended_by_silence_of_any_length(self) -> None:
        state, _ = feed(RULE, [(0, HOT), (10, HOT)])
        day = 86400
        state, steps = feed(RULE, [(day, FINE), (2 * day, FINE), (3 * day, HOT), (4 * day, FINE), (4 * day + 19, FINE)], state)
        assert (state.phase, state.crossed_at, steps) == (Phase.RECOVERING, at(10), [])
        assert feed(RULE, [(4 * day + 20, FINE)], state)[1] == [(4 * day + 20, RESOLVE)]

    def test_is_not_ended_by_nan_nor_is_its_recovery(self) -> None:
        for history in (Phase.ACTIVE, Phase.RECOVERING):
            state, _ = feed(RULE, HISTORIES[history])
            assert feed(RULE, [(second, NAN) for second in range(1, 500)], state) == (state, [])

    def test_has_a_gap_where_only_nan_was_seen(self) -> None:
        state, _ = feed(RULE, HISTORIES[Phase.RECOVERING])
        state, steps = feed(RULE, [(30, NAN), (60, NAN), (61, FINE)], state)
        assert (state.since, steps) == (at(61), [])


def test_sticky_shelving_outlives_the_alert() -> None:
    state, steps = feed(LIMITS, [(0, HOT), (1, FINE), (2, HOT)], RuleState(shelved_until=at(900)))
    assert [step for _, step in steps] == [RAISE, RESOLVE, RAISE]
    assert state.shelved_until == at(900)
