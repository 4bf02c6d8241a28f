"""Whose turn it is, why not, and what a dispatch does to the others of the device."""

import random
from typing import Any

import pytest

from ota.candidates import REASONS, Candidate, choose, why_waiting
from ota.deployment import Command, Deployment, Outcome, Phase
from ota.dispatcher import dispatched
from ota.draft import DeviceState, Draft
from ota.reduction import Loaded
from tests.unit.ota_plant import LIVE, NEWER, OLD, TARGET, TIMEOUTS, WORKING, at, ended, live


def candidate(number: int = 5, **fields: Any) -> Candidate:
    bare = Candidate(number, 7, None, 0, TARGET, None, False, OLD, None)
    return bare._replace(**fields)


def sent(*rows: Deployment, number: int = 5, runs: str | None = OLD) -> Draft:
    states = {7: DeviceState(device_id=7, version=runs)} if runs is not None else {}
    return dispatched(Loaded({row.id: row for row in rows}, states), [number], at(10), TIMEOUTS)


class TestWhyItWaits:
    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({}, None),
            ({"runs": None}, None),
            ({"runs": TARGET}, None),
            ({"runs": NEWER}, "downgrade"),
            ({"runs": NEWER, "may_downgrade": True}, None),
            ({"runs": "2.0.0+rebuilt"}, None),
            ({"runs": "2.0.0-rc.1"}, None),
            ({"runs": "of our own"}, None),
            ({"min_version": "1.5.0"}, "min_version"),
            ({"min_version": OLD}, None),
            ({"min_version": "1.5.0", "runs": None}, None),
            ({"min_version": "1.5.0", "reason": "offline"}, "offline"),
        ],
    )
    def test_is_the_first_reason(self, fields: dict[str, Any], reason: str | None) -> None:
        assert why_waiting(candidate(**fields)) == reason

    def test_is_told_in_words(self) -> None:
        assert {"min_version", "downgrade", "offline", "quarantine", "other_deployment", "backoff"} <= REASONS.keys()
        assert all(text == text.strip() and not text.endswith(".") for text in REASONS.values())


class TestTheChoice:
    def test_is_one_per_device_the_newest_of_the_most_urgent(self) -> None:
        waiting = [
            candidate(1, priority=1), candidate(2, priority=5), candidate(3, priority=5), candidate(4, priority=0),
            candidate(6, device_id=8), candidate(5, device_id=9, priority=9, reason="hold"), candidate(7, device_id=9),
        ]  # fmt: skip
        for seed in range(20):
            shuffled = random.Random(seed).sample(waiting, len(waiting))
            assert [each.id for each in choose(shuffled)] == [3, 6, 7]

    def test_is_empty_if_all_wait(self) -> None:
        assert choose([candidate(reason="offline"), candidate(runs=NEWER)]) == []


class TestADispatch:
    @pytest.mark.parametrize("phase", LIVE)
    def test_sends_what_waits_and_nothing_else(self, phase: Phase) -> None:
        draft = sent(live(phase, from_version=None))
        if phase in {Phase.QUEUED, Phase.BACKOFF}:
            after = draft.changed[5]
            assert (after.phase, after.publish_pending, after.attempt) == (Phase.SENT, Command.UPDATE, 2)
            assert (after.from_version, after.holds_device) == (OLD, True)
        else:
            assert not draft

    @pytest.mark.parametrize("row", [ended(Outcome.CANCELLED), live(Phase.QUEUED, cancel_requested_at=at(1))])
    def test_does_not_send_what_has_ended_or_is_being_cancelled(self, row: Deployment) -> None:
        assert not sent(row)

    def test_of_a_row_that_is_gone_is_nothing(self) -> None:
        assert not sent(live(Phase.QUEUED), number=99)

    def test_of_what_runs_already_is_an_end(self) -> None:
        after = sent(live(Phase.QUEUED), runs=TARGET).changed[5]
        assert (after.outcome, after.publish_pending, after.verified_at) == (Outcome.ALREADY_INSTALLED, None, at(10))

    def test_to_a_device_never_heard_is_sent(self) -> None:
        assert sent(live(Phase.QUEUED, from_version=None), runs=None).changed[5].from_version is None

    @pytest.mark.parametrize("phase", WORKING)
    def test_waits_for_what_is_under_way(self, phase: Phase) -> None:
        """Two instances: never two live rows per device."""
        assert not sent(live(phase, id=4), live(Phase.QUEUED))

    @pytest.mark.parametrize(("phase", "told"), [(Phase.QUEUED, None), (Phase.BACKOFF, None), (Phase.SENT, Command.CANCEL)])
    def test_takes_the_place_of_older_ones_that_have_not_begun(self, phase: Phase, told: Command | None) -> None:
        draft = sent(live(phase, id=4, version="1.9.0"), live(Phase.QUEUED), live(Phase.QUEUED, id=3, device_id=8))
        assert (draft.changed[4].outcome, draft.changed[4].publish_pending) == (Outcome.SUPERSEDED, told)
        assert (draft.changed[5].phase, [*draft.changed]) == (Phase.SENT, [4, 5])

    def test_leaves_newer_ones_waiting(self) -> None:
        draft = sent(live(Phase.QUEUED), live(Phase.QUEUED, id=6))
        assert [*draft.changed] == [5]

    def test_frees_the_device_before_it_takes_it(self) -> None:
        draft = sent(live(Phase.SENT, id=6), live(Phase.QUEUED))
        assert [(move.after.id, move.after.holds_device) for move in draft.moves] == [(6, False), (5, True)]

    def test_leaves_ended_ones_as_they_are(self) -> None:
        assert [*sent(ended(Outcome.TIMED_OUT, id=4), live(Phase.QUEUED)).changed] == [5]
