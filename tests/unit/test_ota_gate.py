"""The gate of a stage: whom it counts, when it opens, when it stops."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.gate import Accepted, Counts, Limits, Verdict, judge

WAIT, PASS, ERROR, STUCK, NOBODY = Verdict.WAIT, Verdict.PASS, Verdict.ERROR, Verdict.STUCK, Verdict.NOBODY


def counted(
    *,
    ok: int = 0,
    faults: int = 0,
    rejected: int = 0,
    going: int = 0,
    waiting: int = 0,
    unreachable: int = 0,
    never: int = 0,
) -> Counts:
    """`waiting`: without those that are unreachable."""
    return Counts(
        eligible=ok + faults + rejected + going + waiting + unreachable + never,
        pending=waiting + unreachable,
        in_progress=going,
        succeeded=ok,
        faults=faults,
        rejected=rejected,
        never_reached=never,
        unreachable=unreachable,
    )


@pytest.mark.parametrize(
    ("counts", "limits", "verdict"),
    [
        # Everybody, or enough of them.
        ({"waiting": 10}, {}, WAIT),
        ({"ok": 9, "going": 1}, {}, WAIT),
        ({"ok": 10}, {}, PASS),
        ({"ok": 19, "going": 1}, {}, PASS),
        ({"ok": 18, "going": 2}, {}, WAIT),
        ({"ok": 1, "waiting": 9}, {"success_threshold_pct": 10}, PASS),
        # 30 % of a stage are offline: they are no part of it.
        ({"ok": 7, "unreachable": 3}, {}, PASS),
        ({"ok": 6, "going": 1, "unreachable": 3}, {}, WAIT),
        ({"ok": 7, "never": 3}, {}, PASS),
        # Too few to judge a percentage by, and yet one of ten makes 95 % impossible.
        ({"faults": 1, "waiting": 9}, {}, ERROR),
        ({"faults": 1, "waiting": 99}, {}, WAIT),
        ({"faults": 1, "ok": 3, "waiting": 96}, {}, WAIT),
        ({"faults": 1, "ok": 4, "waiting": 95}, {}, ERROR),
        ({"faults": 1, "ok": 9, "waiting": 90}, {}, ERROR),
        ({"faults": 1, "ok": 10, "waiting": 89}, {}, WAIT),
        ({"faults": 1, "ok": 10, "waiting": 89}, {"error_threshold_pct": 9}, ERROR),
        ({"faults": 1, "ok": 4, "waiting": 95}, {"min_sample": 6}, WAIT),
        # One dead canary of one.
        ({"faults": 1}, {}, ERROR),
        ({"faults": 1, "unreachable": 5}, {}, ERROR),
        # The cap counts from the first.
        ({"faults": 1, "waiting": 999}, {"max_failures": 1}, ERROR),
        ({"faults": 1, "waiting": 999}, {"max_failures": 2}, WAIT),
        # A stage that is told to pass whatever fails, passes when somebody could be reached.
        ({"faults": 5}, {"success_threshold_pct": 0, "error_threshold_pct": 100, "min_sample": 6}, PASS),
        ({"waiting": 5}, {"success_threshold_pct": 0}, PASS),
        # Refusals are no errors; and yet it cannot pass.
        ({"rejected": 1, "ok": 19}, {}, PASS),
        ({"rejected": 1, "ok": 9}, {}, STUCK),
        ({"rejected": 3}, {}, STUCK),
        ({"rejected": 1, "faults": 1, "waiting": 28}, {}, ERROR),
        # Nobody.
        ({"unreachable": 4}, {}, NOBODY),
        ({"unreachable": 3, "never": 1}, {}, NOBODY),
        ({"unreachable": 3, "waiting": 1}, {}, WAIT),
        ({}, {}, STUCK),
    ],
)
def test_the_table(counts: dict[str, int], limits: dict[str, Any], verdict: Verdict) -> None:
    decision = judge(counted(**counts), Limits(**limits))
    assert decision.verdict is verdict, decision.reason


def test_it_says_by_which_numbers() -> None:
    counts = counted(ok=6, faults=1, going=2, unreachable=3)
    decision = judge(counts, Limits())
    assert (decision.reachable, decision.finished) == (9, 7)
    assert decision.reason == "1 of 7 finished ones failed: 14.3 %, and 10 % is allowed"
    stored = msgspec.to_builtins(decision)
    assert stored["verdict"] == "error"
    assert (stored["counts"]["eligible"], stored["counts"]["unreachable"]) == (12, 3)
    assert stored["limits"]["success_threshold_pct"] == 95
    assert msgspec.convert(stored, type(decision)) == decision


class TestAccepted:
    def test_what_was_accepted_is_not_counted(self) -> None:
        counts = counted(ok=4, faults=1, rejected=1)
        assert judge(counts, Limits()).verdict is ERROR
        decision = judge(counts, Limits(), Accepted(1, 1))
        assert (decision.verdict, decision.reachable, decision.finished) == (PASS, 4, 4)

    def test_the_next_one_counts_again(self) -> None:
        assert judge(counted(faults=2, waiting=1), Limits(), Accepted(1)).verdict is ERROR

    def test_nobody_else_is_left(self) -> None:
        assert judge(counted(faults=1), Limits(), Accepted(1)).verdict is PASS
        assert judge(counted(faults=1, unreachable=1), Limits(), Accepted(1)).verdict is NOBODY

    def test_a_fault_that_was_accepted_and_has_turned_out_a_success(self) -> None:
        decision = judge(counted(ok=2), Limits(), Accepted(1))
        assert (decision.verdict, decision.reachable) == (PASS, 2)


SOME = st.integers(0, 40)
COUNTS = st.builds(counted, ok=SOME, faults=SOME, rejected=SOME, going=SOME, waiting=SOME, unreachable=SOME, never=SOME)
LIMITS = st.builds(
    Limits,
    success_threshold_pct=st.floats(0, 100),
    error_threshold_pct=st.floats(0, 100),
    min_sample=st.integers(1, 10),
    max_failures=st.none() | st.integers(1, 20),
)


@given(COUNTS, LIMITS)
def test_who_is_away_changes_nothing_while_somebody_is_there(counts: Counts, limits: Limits) -> None:
    decision = judge(counts, limits)
    away = counts.unreachable + counts.never_reached
    alone = msgspec.structs.replace(
        counts, eligible=counts.eligible - away, pending=counts.pending - counts.unreachable, unreachable=0, never_reached=0
    )
    if decision.reachable > 0:
        assert judge(alone, limits).verdict is decision.verdict
    assert decision.reachable == alone.eligible


@given(COUNTS, LIMITS)
def test_without_a_failure_there_is_no_error_and_with_all_succeeded_it_passes(counts: Counts, limits: Limits) -> None:
    verdict = judge(counts, limits).verdict
    assert verdict is not Verdict.ERROR or counts.faults > 0
    if counts.eligible and counts.succeeded == counts.eligible:
        assert verdict is Verdict.PASS


@given(COUNTS, LIMITS)
def test_what_waits_can_still_be_decided(counts: Counts, limits: Limits) -> None:
    """A stage never waits for ever: when all that is under way has ended, it is decided."""
    left = counts.pending - counts.unreachable + counts.in_progress
    for ok in (0, left // 2, left):
        ended = msgspec.structs.replace(
            counts,
            pending=counts.unreachable,
            in_progress=0,
            succeeded=counts.succeeded + ok,
            faults=counts.faults + left - ok,
        )
        assert judge(ended, limits).verdict is not Verdict.WAIT
