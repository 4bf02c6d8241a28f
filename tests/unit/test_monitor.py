"""What operators are told, case by case: the table of issue "alerts that operators trust"."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import NO_DATA, OFFLINE, Place, Rule, Severity, Side, Status
from alerting.draft import Draft
from alerting.rules import Phase
from tests.unit.alarm_plant import PLACE, AlarmPlant, at, reading, rule

S = timedelta(seconds=1)
MINUTE = 60
HOUR = 3600


class TestCrossings:
    def test_once_and_back(self) -> None:
        plant = AlarmPlant(rule()).temperatures((0, 70), (1, 90), (2, 95), (3, 80), (4, 90))
        assert plant.events == ["raised", "resolved", "raised"]
        first = plant.alerts[1]
        assert (first.triggered_at, first.resolved_at, first.peak_value, first.value) == (at(1), at(3), 95, 80)
        assert first.message == "Press 7 (hall 2): temperature 90 °C above 80 °C, 2026-05-20 12:00:01 UTC"

    def test_slow_drift_through_the_dead_band(self) -> None:
        slow = rule(hysteresis=5.0)
        plant = AlarmPlant(slow).temperatures(*((n, 74 + n) for n in range(10)), *((20 + n, 84 - n) for n in range(10)))
        assert plant.events == ["raised", "resolved"]
        assert (plant.alerts[1].triggered_at, plant.alerts[1].resolved_at) == (at(7), at(29))

    def test_nan_and_null_in_alarm_are_no_evidence(self) -> None:
        plant = AlarmPlant(rule()).temperatures((0, 90), (1, float("nan")))
        plant.feed(reading(2, humidity=4.0))
        assert plant.changes == ["raised"]
        assert plant.open[0].status is Status.ACTIVE

    def test_both_sides(self) -> None:
        plant = AlarmPlant(rule(low=10.0)).temperatures((0, 90), (1, 5), (2, 50))
        assert plant.events == ["raised", "resolved"]
        assert plant.changes == ["raised", "side", "resolved"]
        assert plant.alerts[1].side is Side.LOW

    @pytest.mark.parametrize("value", [True, 1, 1.5])
    def test_any_number_beyond_the_six(self, value: float) -> None:
        plant = AlarmPlant(rule(metric="door_open", high=0.0)).feed(reading(0, door_open=0), reading(1, door_open=value))
        assert plant.events == ["raised"]
        plant.feed(reading(2, door_open="ajar"), reading(3, door_open=False))
        assert plant.events == ["raised", "resolved"]

    def test_flapping_is_told_once_and_held(self) -> None:
        plant = AlarmPlant(rule())
        plant.temperatures(*((n * 10, 90 if n % 2 == 0 else 70) for n in range(30)))
        assert plant.events == ["raised", "resolved", "raised", "resolved", "raised"]
        assert plant.open[0].flapping
        plant.temperatures((400, 70), (470, 70))
        assert plant.events[-1] == "resolved"

    def test_a_fifth_change_that_would_resolve_is_held(self) -> None:
        plant = AlarmPlant(rule(off_delay=5 * S))
        state = replace(plant.book.state(1), changes=tuple(at(-n) for n in (30, 20, 10)))
        plant.book.states[1] = state
        plant.temperatures((0, 90))
        assert plant.events == ["raised"]
        plant.temperatures((1, 70), (7, 70), (20, 70))
        assert plant.events == ["raised", "flapping"]


class TestLate:
    def test_out_of_order_never_moves_live_state(self) -> None:
        plant = AlarmPlant(rule()).temperatures((10, 70), (5, 95), (6, 70))
        assert plant.changes == []
        assert plant.late == [(at(5), at(5)), (at(6), at(6))]

    def test_a_late_clear_value_does_not_resolve(self) -> None:
        plant = AlarmPlant(rule()).temperatures((10, 90), (9, 20))
        assert [alert.status for alert in plant.open] == [Status.ACTIVE]

    def test_a_backlog_raises_what_is_still_true_once(self) -> None:
        plant = AlarmPlant(rule())
        backlog = [(-3600 + n * 60, 90 if n // 10 % 2 else 70) for n in range(55)]
        plant.feed(*(reading(moment, 0, temperature=value) for moment, value in backlog))
        assert plant.events == []
        plant.feed(reading(1, temperature=91))
        assert plant.events == ["raised"]
        assert plant.alerts[1].triggered_at == at(-3600 + 50 * 60)

    def test_a_backlog_that_is_over_raises_nothing_and_is_looked_at_later(self) -> None:
        plant = AlarmPlant(rule())
        plant.feed(reading(-3600, 0, temperature=90), reading(-1800, 0, temperature=70), reading(0, temperature=70))
        assert plant.changes == []
        assert plant.late == [(at(-3600), at(-1800))]

    def test_a_backlog_resolves(self) -> None:
        """The daemon was down over the recovery."""
        plant = AlarmPlant(rule()).temperatures((-HOUR, 90))
        plant.restart()
        plant.feed(reading(-HOUR + 60, 0, temperature=70))
        assert plant.events == ["raised", "resolved"]

    def test_the_daemon_was_down_over_the_crossing(self) -> None:
        """Late through our absence alone: raised without a newer reading, once nothing newer has come."""
        plant = AlarmPlant(rule())
        plant.monitor.blind_from, plant.monitor.blind_to = at(-HOUR), at(0)
        plant.feed(reading(-1800, 1, temperature=90))
        assert plant.events == []
        plant.commit(lambda: plant.monitor.settle_latent(at(2)))
        assert plant.events == []
        plant.commit(lambda: plant.monitor.settle_latent(at(4)))
        plant.commit(lambda: plant.monitor.settle_latent(at(5)))
        assert plant.events == ["raised"]
        assert plant.alerts[1].triggered_at == at(-1800)

    def test_a_late_upload_while_we_were_there_raises_nothing(self) -> None:
        plant = AlarmPlant(rule())
        plant.monitor.blind_from, plant.monitor.blind_to = at(-9 * HOUR), at(-8 * HOUR)
        plant.feed(reading(-1800, 1, temperature=90))
        plant.commit(lambda: plant.monitor.settle_latent(at(60)))
        assert plant.events == []


class TestClocks:
    def test_four_minutes_ahead_and_put_right_in_alarm(self) -> None:
        plant = AlarmPlant(rule()).feed(reading(240, 0, temperature=90))
        plant.feed(reading(1, 1, temperature=70))
        assert plant.events == ["raised", "resolved"]

    def test_readings_of_one_message_whose_clock_is_ahead(self) -> None:
        plant = AlarmPlant(rule()).feed(reading(240, 0, temperature=90), reading(241, 0, temperature=70))
        assert plant.events == ["raised", "resolved"]

    def test_two_hours_ahead(self) -> None:
        """Ingest stores them at their receipt: nothing is blinded."""
        plant = AlarmPlant(rule()).feed(reading(0, 0, temperature=90)).feed(reading(1, 1, temperature=70))
        assert plant.events == ["raised", "resolved"]


class TestChanges:
    def test_a_threshold_edited_in_alarm_keeps_the_alert(self) -> None:
        plant = AlarmPlant(rule()).temperatures((0, 90))
        plant.change(rule(high=85.0), moment=1)
        assert plant.events == ["raised"]
        assert plant.open[0].max_value == 85
        plant.change(rule(high=95.0), moment=2)
        assert plant.events == ["raised", "resolved"]

    def test_a_changed_condition_begins_pending_anew(self) -> None:
        slow = rule(on_delay=60 * S)
        plant = AlarmPlant(slow).temperatures((0, 90), (50, 90))
        plant.change(slow._replace(high=85.0), moment=55)
        plant.temperatures((70, 90), (100, 90))
        assert plant.events == []
        plant.temperatures((131, 90))
        assert plant.events == ["raised"]

    def test_another_owner_or_instruction_changes_nothing(self) -> None:
        slow = rule(on_delay=60 * S)
        plant = AlarmPlant(slow).temperatures((0, 90))
        plant.change(slow._replace(owner_id=6, instruction="call"), moment=30)
        plant.temperatures((61, 90))
        assert plant.events == ["raised"]
        assert (plant.open[0].owner_id, plant.open[0].instruction) == (6, "call")

    def test_a_higher_severity_is_told(self) -> None:
        plant = AlarmPlant(rule()).temperatures((0, 90))
        plant.change(rule(severity=Severity.CRITICAL), moment=1)
        assert plant.events == ["raised", "changed"]

    @pytest.mark.parametrize(
        ("options", "resolution"),
        [
            ({}, "threshold_deleted"),
            ({"disabled": [1]}, "threshold_disabled"),
            ({"place": replace(PLACE, retired=True)}, "device_retired"),
        ],
    )
    def test_gone_in_alarm(self, options: dict[str, Any], resolution: str) -> None:
        plant = AlarmPlant(rule()).temperatures((0, 90))
        plant.change(moment=1, **options)
        assert plant.events == ["raised", "resolved"]
        assert plant.alerts[1].resolution == resolution
        assert plant.book.state(1).phase is Phase.NORMAL

    def test_a_new_threshold_is_held_against_the_last_value(self) -> None:
        plant = AlarmPlant()
        plant.change(rule(), last={(1, "temperature"): (90.0, at(-10))}, moment=0)
        assert plant.events == ["raised"]
        plant.change(rule(), rule(2, high=60.0), last={(1, "temperature"): (70.0, at(-48 * HOUR))}, moment=1)
        assert plant.events == ["raised"], "a value of two days ago says nothing about now"


class TestSeverities:
    warning, critical = rule(1), rule(2, high=95.0, severity=Severity.CRITICAL)

    def test_warning_then_critical(self) -> None:
        plant = AlarmPlant(self.warning, self.critical).temperatures((0, 90), (1, 99), (2, 90), (3, 70))
        assert plant.told == [
            ("raised", 1, True),
            ("raised", 2, True),
            ("inhibited", 1, False),
            ("resolved", 2, True),
            ("uninhibited", 1, False),
            ("resolved", 1, True),
        ]

    @pytest.mark.parametrize("rules", [(warning, critical), (critical, warning)])
    def test_both_at_once(self, rules: tuple[Rule, Rule]) -> None:
        """The warning is recorded and silent; it speaks up when the critical one is over."""
        plant = AlarmPlant(*rules).temperatures((0, 99), (1, 90), (2, 70))
        assert plant.told == [
            ("raised", 2, True),
            ("raised", 1, False),
            ("resolved", 2, True),
            ("uninhibited", 1, True),
            ("resolved", 1, True),
        ]

    @pytest.mark.parametrize("rules", [(warning, critical), (critical, warning)])
    def test_never_told_of_never_resolved_aloud(self, rules: tuple[Rule, Rule]) -> None:
        plant = AlarmPlant(*rules).temperatures((0, 99), (1, 70))
        assert plant.told == [("raised", 2, True), ("raised", 1, False), ("resolved", 1, False), ("resolved", 2, True)]

    def test_both_deleted(self) -> None:
        plant = AlarmPlant(self.warning, self.critical).temperatures((0, 99))
        plant.change(moment=1)
        assert plant.events == ["raised", "resolved"]

    def test_other_sides_are_apart(self) -> None:
        low = rule(2, high=None, low=10.0, severity=Severity.CRITICAL)
        plant = AlarmPlant(self.warning, low).temperatures((0, 90), (1, 5))
        assert plant.events == ["raised", "resolved", "raised"]


def test_the_owner_is_the_thresholds_else_the_devices_else_the_systems() -> None:
    plant = AlarmPlant(rule(owner_id=7)).temperatures((0, 90))
    assert plant.open[0].owner_id == 7

    def silence(place: Place, kind: str) -> Draft:
        draft = Draft(plant.book)
        draft.raise_absence(place, kind, f"_{kind}", Severity.INFO, "is away", at(1))
        return draft

    plant.commit(lambda: silence(PLACE, OFFLINE))
    plant.commit(lambda: silence(replace(PLACE, owner_id=None), NO_DATA))
    assert [alert.owner_id for alert in plant.open] == [7, 5, 99]


SAMPLES = st.lists(
    st.tuples(st.integers(0, 120), st.sampled_from([60.0, 76.0, 90.0, 99.0, float("nan")])), min_size=1, max_size=40
)
RULES = st.builds(
    lambda on, off, band, gap: rule(on_delay=on * S, off_delay=off * S, hysteresis=band, max_gap=gap * S if gap else None),
    st.sampled_from([0, 5]),
    st.sampled_from([0, 5]),
    st.sampled_from([0.0, 8.0]),
    st.sampled_from([0, 7]),
)


@given(SAMPLES, RULES, st.data())
def test_batches_and_restarts_change_nothing(samples: list[tuple[int, float]], each: Rule, data: st.DataObject) -> None:
    """Any cut into batches, and a new process after any of them: the same alerts, told in the same order."""
    rules = (each, rule(2, high=95.0, severity=Severity.CRITICAL))
    whole, parts = AlarmPlant(*rules), AlarmPlant(*rules)
    readings = [reading(moment, temperature=value) for moment, value in samples]
    whole.feed(*readings)
    while readings:
        size = data.draw(st.integers(1, len(readings)))
        parts.feed(*readings[:size])
        readings = readings[size:]
        if data.draw(st.booleans()):
            parts.restart()
    assert parts.told == whole.told
    assert parts.book.states == whole.book.states
    assert parts.alerts == whole.alerts


@given(SAMPLES, RULES)
def test_memory_is_what_was_committed(samples: list[tuple[int, float]], each: Rule) -> None:
    plant = AlarmPlant(each)
    plant.temperatures(*samples)
    raised = plant.book.state(1).raised and not plant.book.state(1).latent
    assert [alert.threshold_id for alert in plant.open] == ([1] if raised else [])
    assert [number for number, alert in plant.alerts.items() if alert.open] == [alert.id for alert in plant.open]
