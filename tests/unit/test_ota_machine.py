"""A deployment's state machine, cell by cell: what each report and each hello does to a deployment in each phase.

A cell reads `status/phase/outcome verdict`; `=` stands for "as it was".
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ota.deployment import RANK, WAITING, Command, Deployment, Outcome, Phase, Status, VerifyMode
from ota.machine import Step, on_hello, on_report
from ota.reports import Ending, Verdict
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
    ended,
    hello,
    live,
    report,
    work,
)

NOW = at(10)
Event = Callable[[Deployment], Step]
OTHER_ENDS = [outcome for outcome in Outcome if outcome is not Outcome.TIMED_OUT]


def told(said: Phase | Ending | None, **fields: Any) -> Event:
    return lambda row: on_report(row, report(said, **fields), NOW, TIMEOUTS)


def greeted(version: str | None = OLD, **fields: Any) -> Event:
    return lambda row: on_hello(row, hello(version, **fields), NOW, TIMEOUTS)


def greeted_at_work(row: Deployment) -> Step:
    doing = row.phase if row.phase in WORKING else Phase.ACKNOWLEDGED
    return on_hello(row, hello(active=work(doing)), NOW, TIMEOUTS)


DONE, UNHEARD, BACK = "completed/done/succeeded accepted", "= after_terminal", "pending/backoff/- accepted"
LATE, FAILED = "completed/done/late_success accepted", "failed/done/failed accepted"
REJECTED, ROLLED_BACK = "failed/done/rejected accepted", "failed/done/rolled_back accepted"
HERE, CONFIRMING = "completed/done/already_installed accepted", "in_progress/confirming/- accepted"
NEWER_RUNS, MISMATCH = "failed/done/superseded accepted", "failed/done/version_mismatch accepted"
CANCELLED, DOWNLOADING = "failed/done/cancelled accepted", "in_progress/downloading/- accepted"
ACKNOWLEDGED, SAME, NOTHING = "in_progress/acknowledged/- accepted", "= accepted", "= no_change"
STALE, DUPLICATE = "= stale_attempt", "= duplicate_or_old"
AHEAD, AHEAD_WAITS = "pending/sent/- future_attempt", "= future_attempt"

# Columns: queued or in back-off; sent; in progress before the reboot; rebooting or confirming; timed out; ended otherwise.
TABLE: dict[str, tuple[Event, tuple[str, ...]]] = {
    "progress": (told(Phase.DOWNLOADING), (*[DOWNLOADING] * 4, UNHEARD, UNHEARD)),
    "same seq": (told(Phase.DOWNLOADING, seq=4), (*[DUPLICATE] * 4, UNHEARD, UNHEARD)),
    "older seq": (told(Ending.FAILED, seq=1), (*[DUPLICATE] * 4, UNHEARD, UNHEARD)),
    "older attempt": (told(Phase.DOWNLOADING, attempt=1), (*[STALE] * 4, UNHEARD, UNHEARD)),
    "older attempt failed": (told(Ending.FAILED, attempt=1), (*[STALE] * 4, UNHEARD, UNHEARD)),
    "older attempt succeeded": (told(Ending.SUCCEEDED, attempt=1, version=TARGET), (*[DONE] * 4, LATE, UNHEARD)),
    "older attempt succeeded, no version": (told(Ending.SUCCEEDED, attempt=1), (*[STALE] * 4, UNHEARD, UNHEARD)),
    "restored older database: newer attempt": (
        told(Phase.DOWNLOADING, attempt=6),
        (AHEAD_WAITS, *[AHEAD] * 3, UNHEARD, UNHEARD),
    ),
    "newer attempt succeeded": (
        told(Ending.SUCCEEDED, attempt=6, version=TARGET),
        (AHEAD_WAITS, *[AHEAD] * 3, UNHEARD, UNHEARD),
    ),
    "succeeded, target": (told(Ending.SUCCEEDED, version=TARGET), (*[DONE] * 4, LATE, UNHEARD)),
    "succeeded, no version": (told(Ending.SUCCEEDED), (*[DONE] * 4, LATE, UNHEARD)),
    "succeeded, no version, verified": (told(Ending.SUCCEEDED), (*[CONFIRMING] * 4, UNHEARD, UNHEARD)),
    "succeeded, old version": (told(Ending.SUCCEEDED, version=OLD), (*[MISMATCH] * 4, UNHEARD, UNHEARD)),
    "succeeded, other version, verified": (
        told(Ending.SUCCEEDED, version=OTHER),
        (*[MISMATCH] * 4, UNHEARD, UNHEARD),
    ),
    "failed, retryable": (told(Ending.FAILED, error_code="network"), (*[BACK] * 4, FAILED, UNHEARD)),
    "failed, busy": (told(Ending.FAILED, error_code="busy"), (*[BACK] * 4, FAILED, UNHEARD)),
    "failed, low power": (told(Ending.FAILED, error_code="low_power"), (*[BACK] * 4, FAILED, UNHEARD)),
    "failed, not retryable": (told(Ending.FAILED, error_code="flash_write"), (*[FAILED] * 4, FAILED, UNHEARD)),
    "failed, manifest expired": (told(Ending.FAILED, error_code="manifest_expired"), (*[FAILED] * 4, FAILED, UNHEARD)),
    "failed, no reason": (told(Ending.FAILED), (*[FAILED] * 4, FAILED, UNHEARD)),
    "failed, none left": (told(Ending.FAILED, error_code="network"), (*[FAILED] * 4, FAILED, UNHEARD)),
    "failed, url expired": (told(Ending.FAILED, error_code="url_expired"), (*[SAME] * 4, FAILED, UNHEARD)),
    "rejected": (told(Ending.REJECTED, error_code="wrong_hardware"), (*[REJECTED] * 4, REJECTED, UNHEARD)),
    "rejected, retryable": (told(Ending.REJECTED, error_code="network"), (*[REJECTED] * 4, REJECTED, UNHEARD)),
    "rejected, busy with other": (told(Ending.REJECTED, error_code="busy_with_other"), (*[BACK] * 4, REJECTED, UNHEARD)),
    "rolled back": (told(Ending.ROLLED_BACK), (*[ROLLED_BACK] * 4, ROLLED_BACK, UNHEARD)),
    "cancelled by the device": (told(Ending.CANCELLED), (*[CANCELLED] * 4, UNHEARD, UNHEARD)),
    "too late to cancel": (told(Ending.TOO_LATE), (*[SAME] * 4, UNHEARD, UNHEARD)),
    "success report lost, only hello arrives": (greeted(TARGET), (HERE, HERE, DONE, DONE, LATE, UNHEARD)),
    "a birth with the target": (greeted(TARGET, snapshot=False), (HERE, HERE, DONE, DONE, LATE, UNHEARD)),
    "hello at work": (greeted_at_work, (ACKNOWLEDGED, ACKNOWLEDGED, SAME, SAME, UNHEARD, UNHEARD)),
    "hello, idle, new boot": (greeted(rebooted=True), (NOTHING, SAME, SAME, ROLLED_BACK, UNHEARD, UNHEARD)),
    "hello, idle, same boot": (greeted(), (NOTHING, SAME, SAME, NOTHING, UNHEARD, UNHEARD)),
    "retained hello of the same boot": (greeted(live=False), (*[NOTHING] * 4, UNHEARD, UNHEARD)),
    "retained hello of a new boot": (
        greeted(live=False, rebooted=True),
        (NOTHING, SAME, SAME, ROLLED_BACK, UNHEARD, UNHEARD),
    ),
    "hello without version, new boot": (greeted(None, rebooted=True), (NOTHING, SAME, SAME, NOTHING, UNHEARD, UNHEARD)),
    "a birth with the old version": (greeted(snapshot=False), (*[NOTHING] * 4, UNHEARD, UNHEARD)),
    "hello, newer version": (greeted(NEWER), (*[NEWER_RUNS] * 4, UNHEARD, UNHEARD)),
    "hello, another update in work": (
        greeted(active=work(Phase.DOWNLOADING, deployment_id=99)),
        (*[NOTHING] * 4, UNHEARD, UNHEARD),
    ),
    "hello, last one failed": (greeted(last=work(Ending.FAILED)), (*[FAILED] * 4, FAILED, UNHEARD)),
    "hello, last one failed, retryable": (
        greeted(last=work(Ending.FAILED, error_code="network")),
        (*[BACK] * 4, FAILED, UNHEARD),
    ),
    "hello, last one rolled back": (greeted(last=work(Ending.ROLLED_BACK)), (*[ROLLED_BACK] * 4, ROLLED_BACK, UNHEARD)),
    "hello, last one of an older attempt": (
        greeted(last=work(Ending.FAILED, attempt=1)),
        (NOTHING, SAME, SAME, NOTHING, UNHEARD, UNHEARD),
    ),
    "hello, last one of no attempt": (
        greeted(last=work(Ending.FAILED, attempt=None)),
        (NOTHING, SAME, SAME, NOTHING, UNHEARD, UNHEARD),
    ),
    "hello, last one of a newer attempt": (
        greeted(last=work(Ending.FAILED, attempt=6)),
        (AHEAD_WAITS, *[AHEAD] * 3, UNHEARD, UNHEARD),
    ),
}  # fmt: skip


ROWS: dict[str, dict[str, Any]] = {
    "succeeded, no version, verified": {"verify_mode": VerifyMode.VERSION},
    "succeeded, other version, verified": {"verify_mode": VerifyMode.VERSION},
    "failed, none left": {"max_attempts": 2},
}
"""What these rows of the table have that the others have not."""


def column_of(phase: Phase) -> int:
    if phase in WAITING:
        return 0
    if phase is Phase.SENT:
        return 1
    return 2 if phase in BEFORE_REBOOT else 3


def rows(name: str) -> Iterator[tuple[str, Deployment, int]]:
    fields = ROWS.get(name, {})
    yield from ((phase.value, live(phase, **fields), column_of(phase)) for phase in LIVE)
    yield "timed_out", ended(Outcome.TIMED_OUT, **fields), 4
    yield from ((outcome.value, ended(outcome, **fields), 5) for outcome in OTHER_ENDS)


def shape(row: Deployment) -> tuple[str, str, str]:
    return row.status.value, row.phase.value, row.outcome.value if row.outcome is not None else "-"


CELLS = [
    pytest.param(event, row, cells[column], id=f"{name}-{place}")
    for name, (event, cells) in TABLE.items()
    for place, row, column in rows(name)
]


@pytest.mark.parametrize(("event", "row", "cell"), CELLS)
def test_cell(event: Event, row: Deployment, cell: str) -> None:
    step = event(row)
    state, verdict = cell.split()
    assert (shape(step.deployment), step.verdict) == (shape(row) if state == "=" else tuple(state.split("/")), verdict)


@pytest.mark.parametrize("name", TABLE)
def test_what_moves_nothing_is_the_same_object(name: str) -> None:
    for place, row, _ in rows(name):
        step = TABLE[name][0](row)
        if step.verdict not in {Verdict.ACCEPTED, Verdict.FUTURE_ATTEMPT}:
            assert step.deployment is row, place


@pytest.mark.parametrize("name", TABLE)
def test_an_end_leaves_nothing_behind(name: str) -> None:
    for place, row, _ in rows(name):
        after = TABLE[name][0](row).deployment
        if not after.terminal or after is row:
            continue
        deadlines = {after.phase_deadline_at, after.attempt_deadline_at, after.cancel_deadline_at, after.next_action_at}
        assert (after.holds_device, after.publish_pending, deadlines) == (False, None, {None}), place
        assert after.progress_percent == (100 if after.status is Status.COMPLETED else 30), place
        assert after.completed_at == NOW, place


@pytest.mark.parametrize("said", WORKING)
@pytest.mark.parametrize("phase", WORKING)
def test_without_a_number_phases_are_the_order(phase: Phase, said: Phase) -> None:
    defers = Phase.DEFERRED in {phase, said} and phase not in {Phase.REBOOTING, Phase.CONFIRMING}
    step = on_report(live(phase), report(said, seq=None), NOW, TIMEOUTS)
    if RANK[said] >= RANK[phase] or defers:
        assert (step.verdict, step.deployment.phase) == (Verdict.ACCEPTED, said)
    else:
        assert (step.verdict, step.deployment.phase) == (Verdict.PHASE_REGRESSION, phase)


@pytest.mark.parametrize("said", WORKING)
@pytest.mark.parametrize("phase", LIVE)
def test_with_a_number_the_device_may_go_back(phase: Phase, said: Phase) -> None:
    step = on_report(live(phase), report(said), NOW, TIMEOUTS)
    assert (step.verdict, shape(step.deployment)) == (Verdict.ACCEPTED, ("in_progress", said.value, "-"))
    assert step.deployment.last_seq == 5


@pytest.mark.parametrize("phase", WORKING)
def test_in_progress_and_no_finer_word_does_not_lead_back(phase: Phase) -> None:
    step = on_report(live(phase), report(None, seq=None, attempt=None), NOW, TIMEOUTS)
    expected = phase if RANK[phase] > RANK[Phase.DOWNLOADING] else Phase.DOWNLOADING
    assert (step.verdict, step.deployment.phase) == (Verdict.ACCEPTED, expected)


@pytest.mark.parametrize("event", ["report", "hello"])
@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.BACKOFF])
def test_what_another_one_keeps_waiting_is_not_sent(phase: Phase, event: str) -> None:
    row = live(phase, occupied=True)
    at_work = hello(active=work(Phase.DOWNLOADING))
    step = (
        on_report(row, report(Phase.DOWNLOADING), NOW, TIMEOUTS) if event == "report" else on_hello(row, at_work, NOW, TIMEOUTS)
    )
    assert step == Step(row, Verdict.NOT_SENT)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_drift_is_another_version_than_the_end_says(outcome: Outcome) -> None:
    good = {Outcome.SUCCEEDED, Outcome.ALREADY_INSTALLED, Outcome.LATE_SUCCESS}
    assert on_hello(ended(outcome), hello(OLD), NOW, TIMEOUTS).drift is (outcome in good)
    assert on_hello(ended(outcome), hello(TARGET), NOW, TIMEOUTS).drift is (outcome not in good | {Outcome.TIMED_OUT})
    assert not on_hello(ended(outcome), hello(None), NOW, TIMEOUTS).drift


def test_a_restored_database_begins_another_attempt() -> None:
    row = live(Phase.DOWNLOADING, resends=5, attempt_deadline_at=at(20))
    after = on_report(row, report(Phase.INSTALLING, attempt=6), NOW, TIMEOUTS).deployment
    assert (after.attempt, after.max_attempts, after.last_seq, after.progress_percent, after.resends) == (7, 8, 0, 0, 0)
    assert after.publish_pending is Command.UPDATE
    assert after.attempt_deadline_at == at(10 + TIMEOUTS.attempt_s)


def test_a_restored_database_does_not_forget_a_cancel() -> None:
    row = live(Phase.DOWNLOADING, cancel_requested_at=at(1), cancel_deadline_at=at(121))
    after = on_report(row, report(Phase.DOWNLOADING, attempt=6), NOW, TIMEOUTS).deployment
    assert (after.publish_pending, after.attempt, after.cancel_deadline_at) == (Command.CANCEL, 7, at(121))


def reported(row: Deployment, said: Phase | Ending | None, **fields: Any) -> Deployment:
    return on_report(row, report(said, **fields), NOW, TIMEOUTS).deployment


def test_100_percent_but_old_version() -> None:
    full = reported(live(Phase.CONFIRMING), Phase.CONFIRMING, progress_percent=100)
    assert (full.status, full.progress_percent) == (Status.IN_PROGRESS, 100)
    back = on_hello(full, hello(OLD, rebooted=True, seq=6), NOW, TIMEOUTS).deployment
    assert (shape(back), back.error_code, back.reported_version) == (("failed", "done", "rolled_back"), "boot_failed", OLD)


def test_quicker_than_our_record_of_the_dispatch_and_yet_with_a_deadline() -> None:
    after = reported(live(Phase.QUEUED), Phase.DOWNLOADING)
    assert (after.holds_device, after.started_at, after.attempt_deadline_at) == (True, NOW, at(10 + TIMEOUTS.attempt_s))


def test_percent_is_the_most_and_bytes_count_as_work() -> None:
    row = live(Phase.DOWNLOADING, bytes_done=100)
    assert reported(row, Phase.DOWNLOADING, progress_percent=10).progress_percent == 30
    assert reported(row, Phase.DOWNLOADING, progress_percent=31).progress_percent == 31
    idle = reported(row, Phase.DOWNLOADING, progress_percent=30, bytes_done=100)
    busy = reported(row, Phase.DOWNLOADING, progress_percent=30, bytes_done=101)
    assert (idle.phase_deadline_at, busy.phase_deadline_at) == (at(TIMEOUTS.stall_s), at(10 + TIMEOUTS.stall_s))


def test_a_deferral_waits_as_long_as_the_device_asks() -> None:
    after = reported(live(Phase.DOWNLOADING), Phase.DEFERRED, retry_after_s=3600)
    assert (after.phase_deadline_at, after.attempt_deadline_at) == (at(10 + 3600 + TIMEOUTS.ack_s), at(TIMEOUTS.attempt_s))


@pytest.mark.parametrize("phase", WORKING)
def test_progress_does_not_clear_a_cancel(phase: Phase) -> None:
    row = live(phase, cancel_requested_at=at(1), cancel_deadline_at=at(121), publish_pending=Command.CANCEL)
    after = reported(row, phase, progress_percent=80)
    assert (after.cancel_requested_at, after.cancel_deadline_at, after.publish_pending) == (at(1), at(121), Command.CANCEL)
    kept = reported(row, Ending.TOO_LATE)
    assert (kept.cancel_requested_at, kept.cancel_deadline_at, kept.phase) == (None, None, phase)
    assert shape(reported(row, Ending.FAILED, error_code="network")) == ("failed", "done", "cancelled")
    assert shape(reported(row, Ending.ROLLED_BACK, error_code="internal")) == ("failed", "done", "rolled_back")
    assert on_hello(row, hello(rebooted=True), NOW, TIMEOUTS).deployment.publish_pending is not Command.UPDATE


def test_too_late_does_not_end_a_back_off() -> None:
    assert reported(live(Phase.BACKOFF), Ending.TOO_LATE).next_action_at == at(60)


@pytest.mark.parametrize("phase", [Phase.SENT, *WORKING])
def test_url_expires_while_working(phase: Phase) -> None:
    after = reported(live(phase, publish_pending=None), Ending.FAILED, error_code="url_expired")
    assert (after.publish_pending, after.attempt, after.resends, after.phase) == (Command.UPDATE, 2, 1, phase)
    spent = reported(live(phase, resends=TIMEOUTS.max_resends), Ending.FAILED, error_code="url_expired")
    assert (shape(spent), spent.error_code) == (("failed", "done", "failed"), "url_expired")


@pytest.mark.parametrize("phase", WAITING)
def test_a_waiting_one_gets_its_fresh_url_when_it_is_sent(phase: Phase) -> None:
    after = reported(live(phase), Ending.FAILED, error_code="url_expired")
    assert (after.publish_pending, after.phase_deadline_at, after.next_action_at) == (None, None, live(phase).next_action_at)


def test_the_same_digest_mismatch_twice_is_the_file() -> None:
    once = reported(live(Phase.VERIFYING, attempt=1), Ending.FAILED, attempt=1, error_code="digest_mismatch")
    assert (once.phase, once.attempt) == (Phase.BACKOFF, 2)
    assert shape(reported(once, Ending.FAILED, error_code="digest_mismatch")) == ("failed", "done", "failed")


@pytest.mark.parametrize(
    ("said", "code", "retryable", "again"),
    [
        (Ending.REJECTED, "command_expired", None, True),
        (Ending.REJECTED, "busy_with_other", False, False),
        (Ending.FAILED, "network", False, False),
        (Ending.FAILED, "flash_write", True, False),
        (Ending.FAILED, "a word of its own", True, True),
    ],
)
def test_what_is_tried_again(said: Ending, code: str, retryable: bool | None, again: bool) -> None:
    after = reported(live(Phase.INSTALLING), said, error_code=code, retryable=retryable)
    assert (after.phase is Phase.BACKOFF, after.error_code) == (again, code)


def test_a_wanted_downgrade_is_not_superseded_by_the_version_it_replaces() -> None:
    """Before the first dispatch the row knows no old version; the device's state does."""
    row = live(Phase.QUEUED, from_version=None)
    for ran, phase in ((NEWER, Phase.QUEUED), (None, Phase.QUEUED), (OLD, Phase.DONE)):
        assert on_hello(row, hello(NEWER), NOW, TIMEOUTS, ran).deployment.phase is phase
    assert on_hello(live(Phase.SENT, from_version=NEWER), hello(NEWER), NOW, TIMEOUTS).deployment.phase is Phase.SENT


@pytest.mark.parametrize(("phase", "expected"), [(Phase.SENT, Phase.DOWNLOADING), (Phase.INSTALLING, Phase.INSTALLING)])
def test_a_hello_at_work_without_a_phase_is_work(phase: Phase, expected: Phase) -> None:
    after = on_hello(live(phase), hello(active=work(None)), NOW, TIMEOUTS).deployment
    assert (after.status, after.phase) == (Status.IN_PROGRESS, expected)


def test_hellos_send_again_so_often_and_no_oftener() -> None:
    step = on_hello(live(Phase.DOWNLOADING, resends=TIMEOUTS.max_resends), hello(), NOW, TIMEOUTS)
    assert (step.verdict, step.deployment.publish_pending) == (Verdict.NO_CHANGE, None)
