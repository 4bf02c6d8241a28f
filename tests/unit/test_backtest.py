"""The back-test: leaps give the very alerts that every single sample gives, and what it suggests does what it says."""

import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting.alert import Rule, Severity, Side
from alerting.backtest import ON_DELAYS_S, BackTest, Outcome, Suggestion, dead_bands
from alerting.backtest_run import PastAlert
from alerting.rules import NORMAL, RuleState, Step, advance, is_clear
from alerting.stretches import moment_of
from factoryd.commands.backtest_texts import advice, gap_note, summary, table_rows
from factoryd.commands.threshold_try import show_progress

BEGIN = datetime(2026, 5, 20, tzinfo=UTC)
BEGIN_US = int(BEGIN.timestamp()) * 1_000_000
NAN = float("nan")
INF = float("inf")

Samples = list[tuple[int, float]]
"""Microseconds since 1970, and values."""


def rule(
    low: float | None = None,
    high: float | None = 80.0,
    *,
    on: float = 0,
    off: float = 0,
    dead_band: float = 0,
    gap: float | None = None,
) -> Rule:
    max_gap = None if gap is None else timedelta(seconds=gap)
    limits = Rule(1, 1, "temperature", low, high, Severity.WARNING, 1)
    on_delay, off_delay = timedelta(seconds=on), timedelta(seconds=off)
    return limits._replace(on_delay=on_delay, off_delay=off_delay, hysteresis=dead_band, max_gap=max_gap)


def naive(rule: Rule, samples: Samples) -> list[PastAlert]:
    """Every sample through `advance`, as the daemon does with what comes in time."""
    state, mark, found = NORMAL, 0, list[PastAlert]()
    for time, value in samples:
        if time < mark:
            continue
        mark, before, at = time, state, moment_of(time)
        state, step = advance(rule, before, at, value)
        if step is Step.RESOLVE:
            found.append(alert_of(before, at))
    return [*found, alert_of(state, None)] if state.raised else found


def alert_of(state: RuleState, resolved_at: datetime | None) -> PastAlert:
    assert state.crossed_at is not None
    assert state.side is not None
    assert state.peak is not None
    return PastAlert(state.crossed_at, resolved_at, state.side, state.peak, state.flapping)


def tried(rule: Rule, samples: Samples, cuts: list[int] | None = None) -> Outcome:
    """The back-test, the samples cut into pieces at these places."""
    test = BackTest(rule)
    for begin, end in pairwise([0, *sorted(cuts or []), len(samples)]):
        piece = samples[begin:end]
        test.feed(np.array([time for time, _ in piece], np.int64), np.array([value for _, value in piece], np.float64))
    return test.outcome()


def every(seconds: float, *values: float) -> Samples:
    return [(BEGIN_US + int(number * seconds * 1e6), value) for number, value in enumerate(values)]


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


# Few values and few steps of time, so that everything meets everything: limits hit exactly, delays ended exactly, gaps.
LEVELS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, INF, NAN)
STEPS_S = (-2, 0, 1, 1, 1, 2, 5, 29, 30, 61, 130, 599, 600, 1200, 1300)


@st.composite
def pasts(draw: st.DrawFn) -> Samples:
    steps = st.tuples(st.sampled_from(STEPS_S), st.sampled_from(LEVELS), st.integers(1, 4))
    samples, time = Samples(), BEGIN_US
    for seconds, value, repeats in draw(st.lists(steps, max_size=60)):
        for _ in range(repeats):
            time += seconds * 1_000_000
            samples.append((time, value))
    return samples


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    low, high = draw(st.sampled_from([(None, 1.0), (-1.0, None), (-1.0, 1.0), (-2.0, 2.0)]))
    seconds, gaps = st.sampled_from([0, 1, 2, 3, 30, 60]), st.sampled_from([None, 1, 2, 60])
    dead_band = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return rule(low, high, on=draw(seconds), off=draw(seconds), dead_band=dead_band, gap=draw(gaps))


@settings(max_examples=600, deadline=None)
@given(rules(), pasts(), st.data())
def test_leaps_give_the_alerts_of_every_single_sample(rule: Rule, samples: Samples, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(samples)), max_size=6))
    assert list(tried(rule, samples, cuts).alerts) == naive(rule, samples)


@settings(max_examples=200, deadline=None)
@given(rules(), pasts().map(sorted))
def test_what_is_suggested_halves_the_alerts_and_nothing_less_that_was_tried_does(rule: Rule, samples: Samples) -> None:
    outcome = tried(rule, samples)
    alerts = len(outcome.alerts)
    usual = [value for _, value in samples if value == value]  # noqa: PLR0124 - NaN
    bands = [band for band in dead_bands(rule) if is_usual(rule._replace(hysteresis=band), usual)]
    delays = [float(s) for s in ON_DELAYS_S if s > rule.on_delay.total_seconds() and 2 * outcome.gaps < outcome.readings]
    left_by_bands = [(band, len(naive(rule._replace(hysteresis=band), samples))) for band in bands]
    left_by_delays = [(s, len(naive(rule._replace(on_delay=timedelta(seconds=s)), samples))) for s in delays]
    for suggestion, left in ((outcome.dead_band, left_by_bands), (outcome.on_delay, left_by_delays)):
        halving = [(value, count) for value, count in left if 1 < alerts >= 2 * count]
        assert (halving[0] if halving else None) == (suggestion and (suggestion.value, suggestion.alerts))


def is_usual(rule: Rule, values: list[float]) -> bool:
    return 2 * sum(is_clear(rule, value) for value in values) >= len(values)


def test_a_crossing_from_raise_to_resolve() -> None:
    outcome = tried(rule(on=2, off=2), every(1, 70, 81, 82, 85, 83, 79, 81, 78, 78, 78, 70))
    assert outcome.alerts == (PastAlert(after(3), after(9), Side.HIGH, 85.0, flapping=False),)
    assert (outcome.readings, outcome.first, outcome.last) == (11, after(0), after(10))
    assert outcome.in_alarm == timedelta(seconds=6)
    assert outcome.flaps == 0


def test_an_open_alert_counts_until_the_last_reading() -> None:
    outcome = tried(rule(), every(60, 70, 81, 81, 81))
    assert outcome.alerts == (PastAlert(after(60), None, Side.HIGH, 81.0, flapping=False),)
    assert outcome.in_alarm == timedelta(minutes=2)


def test_flaps_are_alerts_that_come_back_within_ten_minutes() -> None:
    outcome = tried(rule(), every(1, 81, 70) + [(time + 599_000_000, value) for time, value in every(1, 70, 81, 70)])
    assert len(outcome.alerts) == 2
    assert outcome.flaps == 1
    outcome = tried(rule(), every(1, 81, 70) + [(time + 600_000_000, value) for time, value in every(1, 70, 81, 70)])
    assert len(outcome.alerts) == 2
    assert outcome.flaps == 0


def test_flapping_holds_an_alert() -> None:
    """The fifth change within ten minutes is a raise: the clear minute that it is held for never comes."""
    outcome = tried(rule(), every(1, *[81, 70] * 10))
    assert [(alert.resolved_at, alert.flapping) for alert in outcome.alerts] == [
        (after(1), False),
        (after(3), False),
        (None, True),
    ]


def test_a_hold_counts_from_the_resolve_that_it_holds() -> None:
    """The fifth change is a resolve, after a pause that is longer than the doubled off-delay of 120 s, too."""
    values = {0: 81, 340: 70, 400: 70, 410: 81, 420: 70, 480: 70, 610: 81, 620: 70, 760: 70, 761: 70, 879: 70, 880: 70}
    samples = [(BEGIN_US + seconds * 1_000_000, float(value)) for seconds, value in values.items()]
    for cuts in ([], [9], [10]):
        last = tried(rule(off=60), samples, cuts).alerts[-1]
        assert (last.triggered_at, last.resolved_at, last.flapping) == (after(610), after(880), True)


def test_the_peak_is_that_of_the_side_it_ended_on() -> None:
    both = every(1, 50, 90, 95, 92, 10, 5, 12, 50)
    (alert,) = tried(rule(20, 80), both).alerts
    assert (alert.side, alert.peak) == (Side.LOW, 5.0)
    assert (alert,) == tried(rule(20, 80), both, cuts=[3, 5, 6]).alerts
    (alert,) = tried(rule(20, 80), every(1, 50, 95, 10, 90, 50)).alerts
    assert (alert.side, alert.peak) == (Side.HIGH, 90.0)


def test_readings_that_are_older_than_one_before_them_are_left_out_and_those_as_old_are_not() -> None:
    late = [*every(10, 70, 70, 70), (BEGIN_US + 5_000_000, 99.0)]
    assert tried(rule(), late).alerts == tried(rule(), late, cuts=[3]).alerts == ()
    assert tried(rule(), late).readings == 3
    as_old = [*every(10, 70, 70, 70), (BEGIN_US + 20_000_000, 99.0)]
    assert len(tried(rule(), as_old).alerts) == len(tried(rule(), as_old, cuts=[3]).alerts) == 1


def test_nothing_is_no_evidence() -> None:
    for samples in ([], every(1, NAN, NAN)):
        outcome = tried(rule(), samples)
        assert (outcome.readings, outcome.first, outcome.last, outcome.alerts) == (0, None, None, ())
        assert (outcome.dead_band, outcome.on_delay, outcome.in_alarm) == (None, None, timedelta())


def test_a_dead_band_and_an_on_delay_are_suggested() -> None:
    chatter = every(300, *[*[70.0] * 4, 81, 79, 81, 79] * 4)
    outcome = tried(rule(), chatter)
    assert len(outcome.alerts) == 8
    assert outcome.dead_band == Suggestion(1.5, 4)
    assert len(tried(rule(dead_band=1.5), chatter).alerts) == 4
    assert outcome.on_delay == Suggestion(1.0, 0)
    assert not tried(rule(on=1), chatter).alerts


def test_one_alert_is_not_halved() -> None:
    outcome = tried(rule(), every(1, 70, 81, 70, 70))
    assert len(outcome.alerts) == 1
    assert (outcome.dead_band, outcome.on_delay) == (None, None)


def test_what_does_not_help_is_not_suggested() -> None:
    hours = [value for _ in range(3) for value in (*[70.0] * 100, *[90.0] * 90)]
    outcome = tried(rule(), every(60, *hours))
    assert len(outcome.alerts) == 3
    assert outcome.dead_band is None, "beyond 10 degrees nothing would be clear: one alert for ever is no remedy"
    assert outcome.on_delay is None, "they last longer than an hour"
    assert list(advice(outcome)) == ["No dead band and no on-delay that was tried would halve the alerts."]


def test_an_on_delay_that_gaps_would_never_let_end_is_not_suggested() -> None:
    samples = every(10, *[70, 70, 81, 81, 70, 70] * 3)
    assert tried(rule(gap=10), samples).on_delay is not None
    outcome = tried(rule(gap=9), samples)
    assert (outcome.gaps, outcome.on_delay) == (17, None)
    assert tried(rule(gap=9), samples, cuts=[3, 4]).gaps == 17
    assert gap_note(outcome, rule(gap=9)) is not None
    assert gap_note(tried(rule(gap=10), samples), rule(gap=10)) is None


@pytest.mark.parametrize(
    ("tried_rule", "first", "last"),
    [
        (rule(high=80), 0.01, 70),
        (rule(high=0), 0.001, 7),
        (rule(low=-300, high=None), 0.1, 700),
        (rule(low=100.9, high=101.5), 0.0001, 0.3),
        (rule(high=80, dead_band=2), 3, 70),
    ],
)
def test_dead_bands_are_of_the_size_of_the_limits(tried_rule: Rule, first: float, last: float) -> None:
    bands = dead_bands(tried_rule)
    assert (bands[0], bands[-1]) == (first, last)
    assert bands == sorted(set(bands))


def test_it_is_said_in_words() -> None:
    outcome = tried(rule(), every(60, *[70.0] * 60, 81, 70, 70, 82, 81, 70))
    assert summary(outcome) == "2 alerts, 3.0 minutes in alarm (4.6 % of the time), 1 raised again within 10 minutes"
    assert list(advice(outcome)) == ["An on-delay of 1s (--for 1s) would leave 1 alert."]
    assert [(row["lasted"], row["peak"]) for row in table_rows(outcome, None)] == [("1m 0s", 81), ("2m 0s", 82)]
    assert len(table_rows(outcome, 1)) == 1
    assert summary(tried(rule(), every(60, 70, 70))) == "no alert"
    assert summary(tried(rule(), every(60, 81))) == "1 alert, 0.0 minutes in alarm"
    assert summary(tried(rule(), every(600, 81, 81, 81))) == "1 alert, 20 minutes in alarm (all the time)"
    assert table_rows(tried(rule(), every(90_000, 81, 81)), 9)[0]["lasted"] == "1d 1h"
    assert table_rows(tried(rule(), every(0.5, 81, 81)), 9)[0] | {"raised": 0} == {
        "raised": 0,
        "resolved": None,
        "lasted": "0.5s",
        "side": "high",
        "peak": 81.0,
        "notes": "open",
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_person_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress(after(0), after(100)) as told:
        told(after(25))
    assert ("reading the past" in stream.getvalue()) is shown
    assert ("25%" in stream.getvalue()) is shown


def test_numpy_is_loaded_for_a_back_test_and_nothing_else() -> None:
    code = "import sys, factoryd.active, factoryd.commands.threshold; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
