"""A deployment's state machine, by property: whatever is said, in which order, how often, and however late."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ota.deployment import SUCCESSES, WAITING, Command, Deployment, Outcome, Phase, Status, VerifyMode
from ota.machine import on_hello, on_report
from ota.reports import Ending, Report, Verdict
from ota.timers import charge, expire, recall, request_cancel, supersede
from ota.transitions import dispatch, looked_at
from tests.unit.ota_plant import (
    BEFORE_REBOOT,
    LIVE,
    NEWER,
    OLD,
    OTHER,
    TARGET,
    TIMEOUTS,
    WORKING,
    at,
    hello,
    live,
    report,
    work,
)

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
Act = Callable[[Deployment, datetime], Deployment]
AMENDED = {Outcome.LATE_SUCCESS, Outcome.FAILED, Outcome.REJECTED, Outcome.ROLLED_BACK}
"""What `timed_out` may still become."""

attempts = st.sampled_from([None, 1, 2, 2, 2, 3, 4])
seqs = st.none() | st.integers(1, 12)
versions = st.sampled_from([OLD, OLD, OLD, OLD, None, None, TARGET, OTHER, NEWER])
"""Mostly what goes on: a walk that ends at once finds nothing."""
saids = st.sampled_from([None, *WORKING, *WORKING, *[Ending.FAILED] * 8, *Ending])
percents = st.none() | st.integers(0, 100)
codes = st.sampled_from(
    [*["network"] * 6, "internal", "url_expired", "digest_mismatch", "busy_with_other", "command_expired", "flash_write", None]
)
works = st.none() | st.builds(
    lambda said, number, attempt: work(said, deployment_id=number, attempt=attempt),
    saids,
    st.sampled_from([5, 5, 99]),
    attempts,
)
reports = st.builds(
    lambda said, attempt, seq, percent, code, version, retryable: report(
        said, attempt=attempt, seq=seq, progress_percent=percent, error_code=code, version=version, retryable=retryable
    ),
    saids, attempts, seqs, percents, codes, versions, st.sampled_from([None, None, None, None, True, False]),
)  # fmt: skip
hellos = st.builds(
    lambda version, said_now, rebooted, snapshot, seq, active, last: hello(
        version, live=said_now, rebooted=rebooted, snapshot=snapshot, seq=seq, active=active, last=last
    ),
    versions, st.booleans(), st.booleans(), st.booleans(), seqs, works, works,
)  # fmt: skip


def heard(said: Report) -> Act:
    return lambda row, now: on_report(row, said, now, TIMEOUTS).deployment


def greeted(said: Any) -> Act:
    return lambda row, now: on_hello(row, said, now, TIMEOUTS, OLD).deployment


def live_only(act: Act) -> Act:
    """Timers and people are kept off ended ones by storage."""
    return lambda row, now: row if row.terminal else act(row, now)


def cancelled(row: Deployment, now: datetime, force: bool) -> Deployment:
    if row.cancel_requested_at is not None and not force:
        return row
    return request_cancel(replace(row, cancel_requested_at=now, cancel_force=force), now, TIMEOUTS)


def sent(row: Deployment, now: datetime) -> Deployment:
    due = row.phase is Phase.QUEUED or (row.next_action_at is not None and row.next_action_at <= now)
    waits = row.phase in WAITING and due and row.cancel_requested_at is None
    return dispatch(row, now, TIMEOUTS, OLD) if waits else row


sweep = live_only(lambda row, now: expire(row, now, TIMEOUTS))
acts = st.one_of(
    reports.map(heard),
    reports.map(heard),
    hellos.map(greeted),
    st.sampled_from([
        *[sweep] * 4,
        *[live_only(sent)] * 4,
        live_only(lambda row, now: cancelled(row, now, False)),
        live_only(lambda row, now: cancelled(row, now, True)),
        live_only(lambda row, now: recall(row, now, TIMEOUTS)),
        live_only(lambda row, now: supersede(row, now, NEWER)),
        live_only(lambda row, now: charge(row, timedelta(hours=1), now, TIMEOUTS)),
        lambda row, _: replace(row, online=not row.online),
    ]),
)  # fmt: skip
pauses = st.sampled_from([0.0, 1.0, 1.0, 10.0, 60.0, 121.0, 901.0, 2_000.0, 20_000.0])
starts = st.builds(
    lambda phase, mode, most, until: looked_at(live(phase, verify_mode=mode, max_attempts=most, queue_expires_at=until)),
    st.sampled_from(LIVE), st.sampled_from(list(VerifyMode)), st.integers(2, 4), st.sampled_from([None, at(300), at(30_000)]),
)  # fmt: skip
walks = st.lists(st.tuples(acts, pauses), min_size=8, max_size=30)


def walked(row: Deployment, walk: list[tuple[Act, float]]) -> list[tuple[Deployment, Deployment, datetime]]:
    """Returns the row before and after each act, and when."""
    second, steps = 0.0, []
    for act, pause in walk:
        second += pause
        after = act(row, at(second))
        steps.append((row, after, at(second)))
        row = after
    return steps


@quick
@given(starts, walks)
def test_nothing_leaves_terminal_but_timed_out(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for before, after, _ in walked(row, walk):
        if before.terminal and before.outcome is not Outcome.TIMED_OUT:
            assert replace(after, online=before.online) == before
        elif before.terminal and after.outcome is not Outcome.TIMED_OUT:
            assert after.outcome in AMENDED


@quick
@given(starts, walks)
def test_status_phase_and_outcome_agree(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for _, after, _ in walked(row, walk):
        assert (after.outcome is not None) == (after.phase is Phase.DONE) == after.terminal == (after.completed_at is not None)
        assert (after.status is Status.PENDING) == (after.phase in WAITING | {Phase.SENT})
        assert (after.status is Status.COMPLETED) == (after.outcome in SUCCESSES)
        assert after.holds_device == (not after.terminal and after.phase not in WAITING)


@quick
@given(starts, walks)
def test_percent_never_falls_within_an_attempt_and_attempts_are_counted(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for before, after, _ in walked(row, walk):
        assert before.attempt <= after.attempt <= after.max_attempts
        if after.attempt == before.attempt:
            assert (after.progress_percent or 0) >= (before.progress_percent or 0)
            assert after.last_seq >= before.last_seq
        assert 0 <= (after.progress_percent or 0) <= 100


@quick
@given(starts, walks)
def test_nobody_is_told_to_install_what_is_not_sent(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    """One command at most is pending, by type; an update only of what is with the device and not being cancelled."""
    for before, after, _ in walked(row, walk):
        if after.publish_pending is Command.UPDATE:
            assert after.holds_device
            assert after.cancel_requested_at is None
        assert after.sends - before.sends in {0, 1}
        assert after.resends <= TIMEOUTS.max_resends


@quick
@given(starts, walks)
def test_it_is_looked_at_in_time(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for _, after, now in walked(row, walk):
        queued_until = after.queue_expires_at if after.status is Status.PENDING else None
        deadlines = (after.phase_deadline_at, after.attempt_deadline_at, after.cancel_deadline_at, queued_until)
        if after.terminal:
            assert deadlines[:3] == (None, None, None)
            assert after.next_action_at is None
        elif after.phase is Phase.BACKOFF:
            assert after.next_action_at is not None
        else:
            for deadline in deadlines:
                assert deadline is None or (after.next_action_at is not None and after.next_action_at <= deadline), now
            assert after.phase in WAITING or None not in {after.phase_deadline_at, after.attempt_deadline_at}


@quick
@given(starts, walks)
def test_a_swept_row_is_not_due_again_at_once(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for _, after, now in walked(row, walk):
        swept = sweep(after, now)
        if swept.status is Status.IN_PROGRESS:
            assert swept.next_action_at is not None
            assert swept.next_action_at > now


@quick
@given(starts, walks)
def test_verified_by_version_is_never_completed_unverified(row: Deployment, walk: list[tuple[Act, float]]) -> None:
    for _, after, _ in walked(row, walk):
        if after.verify_mode is VerifyMode.VERSION and after.status is Status.COMPLETED:
            assert after.verified_at is not None
            assert after.reported_version == TARGET


@quick
@given(starts, walks, st.booleans())
def test_silence_ends_everything(row: Deployment, walk: list[tuple[Act, float]], online: bool) -> None:
    """Whatever has happened: if nobody says anything any more, the device is free again within an attempt's time and a bit."""
    _, row, now = walked(row, walk)[-1]
    row, begin = replace(row, online=online), now
    while row.holds_device:
        assert row.next_action_at is not None
        now = max(now + timedelta(seconds=1), row.next_action_at)
        assert now - begin < timedelta(seconds=3 * TIMEOUTS.attempt_s)
        row = sweep(row, now)


@st.composite
def stories(draw: st.DrawFn) -> list[Report]:
    """What a device says in one attempt, numbered, in order: forwards, and perhaps to an end."""
    phases = sorted(draw(st.lists(st.sampled_from(BEFORE_REBOOT[2:]), min_size=1, max_size=8)), key=BEFORE_REBOOT.index)
    progress = sorted(draw(st.lists(st.integers(0, 100), min_size=len(phases), max_size=len(phases))))
    told = [
        report(phase, seq=5 + place, progress_percent=percent)
        for place, (phase, percent) in enumerate(zip(phases, progress, strict=True))
    ]
    last = draw(st.sampled_from([
        None, report(Ending.SUCCEEDED, version=TARGET), report(Ending.SUCCEEDED, version=OTHER), report(Ending.SUCCEEDED),
        report(Ending.FAILED, error_code="network"), report(Ending.FAILED, error_code="flash_write"),
        report(Ending.REJECTED, error_code="no_space"), report(Ending.ROLLED_BACK), report(Ending.CANCELLED),
    ]))  # fmt: skip
    return [*told, replace(last, seq=5 + len(told))] if last is not None else told


@quick
@given(stories(), st.data(), st.sampled_from(list(VerifyMode)))
def test_permutations_and_duplicates_end_alike(story: list[Report], data: st.DataObject, mode: VerifyMode) -> None:
    twice = [*story, *data.draw(st.lists(st.sampled_from(story), max_size=6))]
    shuffled = data.draw(st.permutations(twice))
    ends = []
    for order in (story, shuffled):
        row = live(Phase.SENT, verify_mode=mode)
        for said in order:
            row = on_report(row, said, at(10), TIMEOUTS).deployment
        percent = row.progress_percent if row.outcome is None and row.phase is not Phase.CONFIRMING else None
        ends.append((row.status, row.phase, row.outcome, row.attempt, row.error_code, row.last_seq, percent))
    assert ends[0] == ends[1]


@quick
@given(stories())
def test_said_twice_is_said_once(story: list[Report]) -> None:
    row = live(Phase.SENT)
    for said in story:
        row = on_report(row, said, at(10), TIMEOUTS).deployment
        again = on_report(row, said, at(11), TIMEOUTS)
        assert again.deployment is row
        assert again.verdict in {Verdict.DUPLICATE, Verdict.STALE_ATTEMPT, Verdict.AFTER_TERMINAL}
