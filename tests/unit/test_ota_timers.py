"""What time and people do to a deployment, phase by phase."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from ota.deployment import IRREVERSIBLE, WAITING, Command, Deployment, Outcome, Phase, Status, Timeouts
from ota.timers import charge, expire, recall, remove, request_cancel, supersede
from ota.transitions import back_off, dispatch, end, requeue, retry
from tests.unit.ota_plant import BEFORE_REBOOT, LIVE, REVERSIBLE, START, TIMEOUTS, WORKING, at, live

LONG = at(TIMEOUTS.attempt_s)
CUT = [phase for phase in BEFORE_REBOOT if phase is not Phase.DEFERRED]
"""A stall ends these; a deferral is reminded first."""


def overdue(phase: Phase, **fields: Any) -> Deployment:
    """Its phase's deadline has just passed."""
    return live(phase, phase_deadline_at=at(10), next_action_at=at(10), **fields)


def shape(row: Deployment) -> tuple[Phase, Outcome | None, str | None, Command | None]:
    return row.phase, row.outcome, row.error_code, row.publish_pending


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("phase", LIVE)
def test_nothing_happens_before_a_deadline(phase: Phase, online: bool) -> None:
    row = live(phase, online=online, queue_expires_at=at(50))
    assert replace(expire(row, at(9), TIMEOUTS), next_action_at=None) == replace(row, next_action_at=None)


class TestAnUnansweredCommand:
    def test_is_sent_again_in_the_same_attempt(self) -> None:
        after = expire(overdue(Phase.SENT, publish_pending=None, resends=4), at(10), TIMEOUTS)
        assert shape(after) == (Phase.SENT, None, None, Command.UPDATE)
        assert (after.attempt, after.resends, after.phase_deadline_at) == (2, 5, at(10 + TIMEOUTS.ack_s))

    def test_ends_after_as_many_as_are_allowed(self) -> None:
        after = expire(overdue(Phase.SENT, resends=5), at(10), TIMEOUTS)
        assert shape(after) == (Phase.DONE, Outcome.TIMED_OUT, "no_ack", Command.CANCEL)

    def test_waits_if_the_device_is_offline_and_burns_no_attempt(self) -> None:
        after = expire(overdue(Phase.SENT, online=False, queue_expires_at=at(9_000)), at(10), TIMEOUTS)
        assert shape(after) == (Phase.QUEUED, None, None, None)
        assert (after.attempt, after.holds_device, after.attempt_deadline_at) == (2, False, None)
        assert (after.phase_deadline_at, after.next_action_at) == (None, at(9_000))

    def test_is_not_sent_again_once_a_cancel_is_asked_for(self) -> None:
        asked = request_cancel(overdue(Phase.SENT, cancel_requested_at=at(5)), at(5), TIMEOUTS)
        after = expire(asked, at(10), TIMEOUTS)
        assert (after.publish_pending, after.phase, after.next_action_at) == (Command.CANCEL, Phase.SENT, at(125))

    def test_offline_and_cancelled_ends_with_the_cancels_own_deadline(self) -> None:
        asked = request_cancel(overdue(Phase.SENT, cancel_requested_at=at(5), online=False), at(5), TIMEOUTS)
        waits = expire(asked, at(10), TIMEOUTS)
        assert (waits.phase, waits.next_action_at) == (Phase.QUEUED, at(125))
        assert expire(waits, at(125), TIMEOUTS).outcome is Outcome.CANCELLED


class TestAStall:
    @pytest.mark.parametrize("phase", CUT)
    def test_is_tried_again(self, phase: Phase) -> None:
        after = expire(overdue(phase), at(10), TIMEOUTS)
        assert shape(after) == (Phase.BACKOFF, None, "stalled", None)
        assert (after.attempt, after.last_seq, after.progress_percent, after.holds_device) == (3, 0, 0, False)

    @pytest.mark.parametrize("phase", CUT)
    def test_ends_the_last_attempt(self, phase: Phase) -> None:
        after = expire(overdue(phase, max_attempts=2), at(10), TIMEOUTS)
        assert shape(after) == (Phase.DONE, Outcome.TIMED_OUT, "stalled", Command.CANCEL)

    @pytest.mark.parametrize("phase", CUT)
    def test_while_offline_waits_for_the_attempts_end(self, phase: Phase) -> None:
        row = overdue(phase, online=False)
        later = expire(row, at(10), TIMEOUTS)
        assert (later.phase, later.attempt, later.phase_since) == (phase, 2, START)
        assert later.phase_deadline_at is not None
        assert at(10) < later.phase_deadline_at < LONG
        assert shape(expire(later, LONG, TIMEOUTS)) == (Phase.BACKOFF, None, "attempt_timeout", None)

    def test_of_a_deferral_is_a_reminder(self) -> None:
        after = expire(overdue(Phase.DEFERRED), at(10), TIMEOUTS)
        assert (shape(after), after.resends) == ((Phase.DEFERRED, None, None, Command.UPDATE), 1)
        assert expire(overdue(Phase.DEFERRED, resends=5), at(10), TIMEOUTS).phase is Phase.BACKOFF

    def test_of_a_deferral_is_no_reminder_once_a_cancel_is_asked_for(self) -> None:
        asked = request_cancel(overdue(Phase.DEFERRED, cancel_requested_at=at(5)), at(5), TIMEOUTS)
        assert expire(asked, at(10), TIMEOUTS).publish_pending is Command.CANCEL

    @pytest.mark.parametrize("online", [True, False])
    def test_after_the_reboot(self, online: bool) -> None:
        assert shape(expire(overdue(Phase.REBOOTING, online=online), at(10), TIMEOUTS))[:3] == (
            Phase.BACKOFF, None, "reboot_timeout",
        )  # fmt: skip
        assert shape(expire(overdue(Phase.CONFIRMING, online=online), at(10), TIMEOUTS))[:3] == (
            Phase.DONE, Outcome.TIMED_OUT, "confirm_timeout",
        )  # fmt: skip


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("phase", WORKING)
def test_an_attempt_ends_whatever_its_phase(phase: Phase, online: bool) -> None:
    row = live(phase, online=online, phase_deadline_at=LONG + timedelta(seconds=1))
    assert shape(expire(row, LONG, TIMEOUTS)) == (Phase.BACKOFF, None, "attempt_timeout", None)
    last = expire(replace(row, attempt=3), LONG, TIMEOUTS)
    assert shape(last) == (Phase.DONE, Outcome.TIMED_OUT, "attempt_timeout", Command.CANCEL)


@pytest.mark.parametrize("phase", LIVE)
def test_queue_expires_at_ends_what_has_not_begun(phase: Phase) -> None:
    after = expire(live(phase, queue_expires_at=at(10)), at(10), TIMEOUTS)
    if phase in WAITING | {Phase.SENT}:
        told = Command.CANCEL if phase is Phase.SENT else None
        assert shape(after) == (Phase.DONE, Outcome.EXPIRED, None, told)
    else:
        assert after == live(phase, queue_expires_at=at(10))


class TestACancel:
    """4.9: cancel in each phase, answer lost."""

    @pytest.mark.parametrize("force", [True, False])
    @pytest.mark.parametrize("phase", WAITING)
    def test_ends_what_waits_at_once(self, phase: Phase, force: bool) -> None:
        after = request_cancel(live(phase, cancel_requested_at=at(5), cancel_force=force), at(10), TIMEOUTS)
        assert shape(after) == (Phase.DONE, Outcome.CANCELLED, None, None)

    @pytest.mark.parametrize("online", [True, False])
    @pytest.mark.parametrize("phase", [Phase.SENT, *REVERSIBLE])
    def test_asks_and_ends_when_the_answer_is_lost(self, phase: Phase, online: bool) -> None:
        row = live(phase, cancel_requested_at=at(5), cancel_reason="wrong line", online=online)
        asked = request_cancel(row, at(10), TIMEOUTS)
        assert (shape(asked), asked.holds_device) == ((phase, None, None, Command.CANCEL), True)
        assert (asked.cancel_deadline_at, asked.cancel_requested_at) == (at(130), at(5))
        after = expire(expire(asked, at(129), TIMEOUTS), at(130), TIMEOUTS)
        assert (after.phase, after.outcome, after.error_message) == (Phase.DONE, Outcome.CANCELLED, "wrong line")

    @pytest.mark.parametrize("phase", IRREVERSIBLE)
    def test_is_refused_once_the_flash_is_written(self, phase: Phase) -> None:
        row = live(phase)
        assert request_cancel(replace(row, cancel_requested_at=at(5), cancel_reason="no"), at(10), TIMEOUTS) == row

    @pytest.mark.parametrize("phase", [Phase.SENT, *WORKING])
    def test_by_force_ends_at_once_and_tells_the_device(self, phase: Phase) -> None:
        after = request_cancel(live(phase, cancel_requested_at=at(5), cancel_force=True), at(10), TIMEOUTS)
        assert shape(after) == (Phase.DONE, Outcome.CANCELLED, None, Command.CANCEL)
        assert (after.holds_device, after.next_action_at) == (False, None)

    @pytest.mark.parametrize("phase", CUT)
    def test_is_not_followed_by_another_attempt(self, phase: Phase) -> None:
        after = expire(overdue(phase, cancel_requested_at=at(5), cancel_deadline_at=at(125)), at(10), TIMEOUTS)
        assert after.status is Status.FAILED


@pytest.mark.parametrize("phase", LIVE)
def test_a_newer_deployment_takes_the_place_of_what_has_not_begun(phase: Phase) -> None:
    row = live(phase)
    after = supersede(row, at(10), "3.0.0")
    if phase in WORKING:
        assert after is row
    else:
        told = Command.CANCEL if phase is Phase.SENT else None
        assert shape(after) == (Phase.DONE, Outcome.SUPERSEDED, None, told)


@pytest.mark.parametrize("phase", LIVE)
def test_a_recall_stops_what_has_not_begun_to_write(phase: Phase) -> None:
    row = live(phase)
    after = recall(row, at(10), TIMEOUTS)
    if phase in IRREVERSIBLE:
        assert after is row
    elif phase in WORKING:
        assert shape(after) == (phase, None, None, Command.CANCEL)
        assert (after.cancel_requested_at, after.cancel_deadline_at) == (at(10), at(130))
        assert recall(after, at(20), TIMEOUTS) is after
    else:
        told = Command.CANCEL if phase is Phase.SENT else None
        assert shape(after) == (Phase.DONE, Outcome.CANCELLED, "recalled", told)


@pytest.mark.parametrize("phase", LIVE)
def test_a_retired_device_has_no_deployment(phase: Phase) -> None:
    told = None if phase in WAITING else Command.CANCEL
    assert shape(remove(live(phase), at(10))) == (Phase.DONE, Outcome.REMOVED, None, told)


class TestOurAbsence:
    @pytest.mark.parametrize("phase", [Phase.SENT, *WORKING])
    def test_is_not_the_devices(self, phase: Phase) -> None:
        """4.9: daemon down for an hour, no false timeout."""
        hour = timedelta(hours=1)
        row = live(phase, cancel_requested_at=at(5), cancel_deadline_at=at(15))
        back = charge(row, hour, START + hour, TIMEOUTS)
        assert expire(back, START + hour, TIMEOUTS).phase is phase
        for before, after in (
            (row.phase_deadline_at, back.phase_deadline_at),
            (row.attempt_deadline_at, back.attempt_deadline_at),
            (row.cancel_deadline_at, back.cancel_deadline_at),
        ):
            assert before is not None
            assert after == before + hour
        assert back.next_action_at == at(15) + hour

    def test_gives_no_more_than_a_full_new_deadline_and_takes_nothing(self) -> None:
        row = live(Phase.DOWNLOADING, phase_deadline_at=at(800), attempt_deadline_at=at(99_999))
        back = charge(row, timedelta(days=1), at(100), TIMEOUTS)
        assert (back.phase_deadline_at, back.attempt_deadline_at) == (at(100 + TIMEOUTS.stall_s), at(99_999))

    @pytest.mark.parametrize("phase", WAITING)
    def test_is_of_no_consequence_to_what_waits(self, phase: Phase) -> None:
        row = live(phase)
        assert charge(row, timedelta(hours=1), at(10), TIMEOUTS) == row


class TestABackOff:
    def test_doubles_up_to_the_cap_and_is_spread_over_its_upper_half(self) -> None:
        for attempt, most_s in ((1, 60.0), (2, 120.0), (3, 240.0), (7, 3600.0), (10_000, 3600.0)):
            pauses = [back_off(live(Phase.BACKOFF, id=n, attempt=attempt), TIMEOUTS).total_seconds() for n in range(1, 400)]
            assert most_s / 2 <= min(pauses) < most_s * 0.52
            assert most_s * 0.98 < max(pauses) <= most_s

    def test_is_the_same_whoever_works_it_out(self) -> None:
        row = live(Phase.DOWNLOADING)
        assert retry(row, at(0), TIMEOUTS) == retry(row, at(0), TIMEOUTS)

    def test_holds_nothing_and_sends_nothing(self) -> None:
        after = retry(live(Phase.DOWNLOADING, publish_pending=Command.UPDATE, resends=3), at(10), TIMEOUTS)
        assert (after.holds_device, after.publish_pending, after.resends) == (False, None, 0)
        assert (after.phase_deadline_at, after.attempt_deadline_at) == (None, None)
        assert after.next_action_at == at(10) + back_off(live(Phase.DOWNLOADING), TIMEOUTS)


@pytest.mark.parametrize("phase", WAITING)
def test_a_dispatch_keeps_the_attempt_and_sets_every_clock(phase: Phase) -> None:
    after = dispatch(live(phase, from_version=None, resends=4), at(100), TIMEOUTS, "1.2.3")
    assert shape(after) == (Phase.SENT, None, None, Command.UPDATE)
    assert (after.status, after.attempt, after.resends, after.sends) == (Status.PENDING, 2, 0, 1)
    assert (after.from_version, after.dispatched_at, after.holds_device) == ("1.2.3", at(100), True)
    assert (after.phase_deadline_at, after.attempt_deadline_at) == (at(220), at(100 + TIMEOUTS.attempt_s))
    assert after.next_action_at is not None
    assert after.next_action_at <= at(220)


def test_a_requeue_keeps_a_cancel_that_is_not_yet_told() -> None:
    assert requeue(live(Phase.SENT, publish_pending=Command.CANCEL), at(10)).publish_pending is Command.CANCEL


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_end_says_whether_it_is_a_success(outcome: Outcome) -> None:
    after = end(live(Phase.CONFIRMING), outcome, at(10), code="boot_failed", message="why")
    good = outcome in {Outcome.SUCCEEDED, Outcome.ALREADY_INSTALLED, Outcome.LATE_SUCCESS}
    assert (after.status, after.progress_percent) == ((Status.COMPLETED, 100) if good else (Status.FAILED, 30))
    assert (after.error_code, after.error_message) == ((None, None) if good else ("boot_failed", "why"))


def test_no_resends_at_all_is_a_choice() -> None:
    after = expire(overdue(Phase.SENT), at(10), Timeouts(max_resends=0))
    assert after.outcome is Outcome.TIMED_OUT
