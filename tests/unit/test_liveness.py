"""The rules of presence, one by one, and what must hold after any sequence of events."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.births import NO_REASON, Report, Status
from ingest.liveness import (
    FOREVER,
    RECENT,
    SILENT,
    Liveness,
    Outcome,
    PresenceRow,
    bury,
    find_silent,
    hear,
    note_report,
    restored,
)

START = datetime(2026, 5, 20, 12, tzinfo=UTC)
ONLINE, OFFLINE, ERROR = Status.ONLINE, Status.OFFLINE, Status.ERROR


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def born(session: str | None = "s1") -> Liveness:
    state = Liveness(1)
    assert note_report(state, Report(ONLINE, session, "1.0"), START, retained=False) is Outcome.ACCEPTED
    return state


def report(state: Liveness, status: Status, second: float, session: str | None = None, *, retained: bool = False) -> Outcome:
    return note_report(state, Report(status, session), at(second), retained=retained)


def test_a_birth_says_online_with_session_version_and_our_time() -> None:
    assert born().row == PresenceRow(1, ONLINE, None, "s1", "1.0", START)


@pytest.mark.parametrize(
    ("birth", "death", "outcome"),
    [
        ("s1", "s1", Outcome.ACCEPTED),
        ("s2", "s1", Outcome.STALE_SESSION),
        ("s1", None, Outcome.ACCEPTED),
        (None, "s1", Outcome.ACCEPTED),
        (None, None, Outcome.ACCEPTED),
    ],
)
@pytest.mark.parametrize("retained", [False, True])
def test_a_death_counts_unless_it_names_another_session(
    birth: str | None, death: str | None, outcome: Outcome, retained: bool
) -> None:
    state = born(birth)
    assert report(state, OFFLINE, 1, death, retained=retained) is outcome
    assert state.status is (OFFLINE if outcome is Outcome.ACCEPTED else ONLINE)


def test_a_death_is_no_sign_of_life() -> None:
    state = born()
    report(state, OFFLINE, 9, "s1")
    assert state.last_seen == START


def test_a_death_keeps_its_reason() -> None:
    state = born()
    note_report(state, Report(OFFLINE, "s1", reason="maintenance"), at(1), retained=False)
    assert state.row[1:3] == (OFFLINE, "maintenance")


class TestTrafficAfterADeath:
    def test_does_not_count_before_the_mark_is_back(self) -> None:
        state = born()
        report(state, OFFLINE, 10)
        assert not hear(state, at(3600), at(3600))
        assert state.row[1:] == (OFFLINE, None, "s1", "1.0", at(3600))

    def test_counts_when_it_was_received_after_the_mark(self) -> None:
        state = born()
        report(state, OFFLINE, 10)
        state.deaf_until = at(12)
        assert not hear(state, at(12), at(13))
        assert hear(state, at(12.001), at(13))
        assert state.status is ONLINE

    def test_a_second_death_makes_deaf_again(self) -> None:
        state = born()
        report(state, OFFLINE, 10)
        state.deaf_until = at(12)
        report(state, OFFLINE, 13)
        assert not hear(state, at(14), at(14))

    def test_a_birth_needs_no_mark(self) -> None:
        state = born()
        report(state, OFFLINE, 10)
        assert report(state, ONLINE, 11, "s2") is Outcome.ACCEPTED
        assert state.row[1:4] == (ONLINE, None, "s2")


class TestSilence:
    def test_begins_after_the_allowed_time(self) -> None:
        state = born()
        assert not find_silent(state, 30, START, at(30))
        assert find_silent(state, 30, START, at(30.1))
        assert state.row[1:3] == (OFFLINE, "silent for more than 30 s")
        assert state.silent

    def test_is_not_counted_before_we_began_to_see(self) -> None:
        state = born()
        assert not find_silent(state, 30, at(3600), at(3629))
        assert find_silent(state, 30, at(3600), at(3631))

    def test_any_later_traffic_ends_it_at_once(self) -> None:
        state = born()
        find_silent(state, 30, START, at(31))
        assert hear(state, at(30.9), at(31.2)), "received just before, stored just after"
        assert state.status is ONLINE

    def test_a_replayed_message_does_not_end_it(self) -> None:
        state = born()
        find_silent(state, 30, START, at(31))
        assert not hear(state, at(-500), at(40))
        assert state.last_seen == START

    def test_is_not_undone_by_the_retained_birth_of_the_same_session(self) -> None:
        for session in ("s1", None):
            state = born()
            find_silent(state, 30, START, at(31))
            assert report(state, ONLINE, 40, session, retained=True) is Outcome.REPEATED
            assert state.silent

    def test_is_undone_by_the_retained_birth_of_a_new_session(self) -> None:
        state = born()
        find_silent(state, 30, START, at(31))
        assert report(state, ONLINE, 40, "s2", retained=True) is Outcome.ACCEPTED
        assert (state.status, state.last_seen) == (ONLINE, START), "retained: no sign of life now"
        assert not find_silent(state, 30, START, at(69)), "but it has a fresh interval"

    def test_of_a_device_in_error_keeps_the_error_for_its_return(self) -> None:
        state = born()
        note_report(state, Report(ERROR, reason="jam"), at(1), retained=False)
        find_silent(state, 30, START, at(40))
        assert hear(state, at(50), at(50))
        assert state.row[1:3] == (ERROR, "jam")

    def test_a_death_during_it_makes_deaf(self) -> None:
        state = born()
        find_silent(state, 30, START, at(31))
        assert report(state, OFFLINE, 40) is Outcome.ACCEPTED
        assert not hear(state, at(41), at(41))


class TestError:
    def test_stands_until_the_device_says_otherwise(self) -> None:
        state = born()
        note_report(state, Report(ERROR, reason="jam"), at(1), retained=False)
        hear(state, at(2), at(2))
        assert state.row == PresenceRow(1, ERROR, "jam", "s1", "1.0", at(2))
        report(state, ONLINE, 3, "s1")
        assert state.row[1:3] == (ONLINE, None)

    def test_without_a_reason_says_so(self) -> None:
        state = born()
        report(state, ERROR, 1)
        assert state.reason == NO_REASON


def test_a_device_never_seen_comes_online_by_its_first_message_but_not_by_an_old_one() -> None:
    state = Liveness(1)
    assert not hear(state, START, START + 2 * RECENT)
    assert state.last_seen == START
    fresh = Liveness(2)
    assert hear(fresh, START, at(1))


def test_a_retained_death_is_told_once() -> None:
    state = born()
    bury(state, "gateway gw-1 is offline")
    assert report(state, OFFLINE, 1, "s1", retained=True) is Outcome.REPEATED
    assert state.reason == "gateway gw-1 is offline"


@pytest.mark.parametrize(
    ("row", "dead", "fault"),
    [
        (PresenceRow(1), False, None),
        (PresenceRow(1, ONLINE, None, "s", None, START), False, None),
        (PresenceRow(1, OFFLINE, None, "s", None, START), True, None),
        (PresenceRow(1, OFFLINE, "gateway gw-1 is offline", None, None, START), True, None),
        (PresenceRow(1, OFFLINE, f"{SILENT} more than 30 s", None, None, START), False, None),
        (PresenceRow(1, ERROR, "jam", None, None, START), False, "jam"),
    ],
)
def test_after_a_restart_the_stored_row_tells_the_dead_from_the_silent(row: PresenceRow, dead: bool, fault: str | None) -> None:
    state = restored(row)
    assert (state.dead, state.fault, state.row) == (dead, fault, row)
    assert state.deaf_until is FOREVER


reports = st.builds(Report, st.sampled_from(Status), st.sampled_from([None, "s1", "s2"]), reason=st.sampled_from([None, "x"]))
events = st.one_of(
    st.tuples(st.just("report"), reports, st.booleans()),
    st.tuples(st.just("hear")),
    st.tuples(st.just("silence")),
    st.tuples(st.just("bury")),
    st.tuples(st.just("settle")),
)


@given(st.lists(st.tuples(st.integers(0, 50), events), max_size=30))
def test_whatever_happens_the_state_makes_sense(story: list[tuple[int, tuple[object, ...]]]) -> None:
    state, now, seen = Liveness(1), START, None
    for wait, event in story:
        now += timedelta(seconds=wait, microseconds=1)
        deaf = state.dead and now <= state.deaf_until
        match event:
            case ("report", Report() as said, bool() as retained):
                outcome = note_report(state, said, now, retained=retained)
                alive = said.status is not OFFLINE and outcome is Outcome.ACCEPTED and not retained
                seen = now if alive else seen
            case ("hear",):
                assert not (hear(state, now, now) and deaf)
                seen = now
            case ("silence",):
                find_silent(state, 30, START, now)
            case ("bury",):
                bury(state, "gateway")
            case ("settle",) if state.dead:
                state.deaf_until = min(now, state.deaf_until)
            case _:
                pass
        assert state.last_seen == seen, "only what the device itself has just said is a sign of life"
        assert (state.status is ERROR) <= (state.fault is not None and state.reason == state.fault)
        assert (state.status is ONLINE) <= (state.reason is None and not state.dead)
        assert not (state.dead and state.status is not OFFLINE)
        assert restored(state.row).row == state.row
