"""A deployment's state machine beside its table: order, fences, deadlines, cancels, retries."""

from typing import Any

import pytest

from ota.deployment import RANK, WAITING, Command, Deployment, Outcome, Phase, Status
from ota.machine import Step, on_hello, on_report
from ota.reports import Ending, Verdict
from tests.unit.ota_plant import LIVE, NEWER, OLD, TARGET, TIMEOUTS, WORKING, at, ended, hello, live, report, shape, work

NOW = at(10)


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
