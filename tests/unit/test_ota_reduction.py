"""A batch of devices' messages against their deployments: order, verdicts, what is written, who is told to stop."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from ota.deployment import Command, Deployment, Outcome, Phase
from ota.draft import DeviceState, Draft, Kind, Stray, greeted
from ota.reduction import Loaded, Message, limited, numbers_in, reduce
from ota.reports import Ending, Hello, Report, Verdict, in_view_of
from tests.unit.ota_plant import LIVE, NEWER, OLD, TARGET, TIMEOUTS, at, ended, hello, live, report, work

NOW = at(10)


def said(body: Report | Hello, moment: datetime = NOW, device_id: int = 7) -> Message:
    return Message(device_id, f"press-{device_id}", body, moment)


def reduced(messages: Sequence[Message], *rows: Deployment, state: DeviceState | None = None) -> Draft:
    states = {state.device_id: state} if state is not None else {}
    return reduce(messages, Loaded({row.id: row for row in rows}, states), TIMEOUTS)


def known(**fields: Any) -> DeviceState:
    bare: dict[str, Any] = {"device_id": 7, "version": OLD, "boot_id": "b1"}
    return DeviceState(**(bare | fields))


class TestABatch:
    def test_is_taken_in_order(self) -> None:
        draft = reduced(
            [
                said(report(Phase.DOWNLOADING, seq=5, progress_percent=40), at(1)),
                said(report(Phase.INSTALLING, seq=6, progress_percent=80), at(2)),
                said(report(Ending.SUCCEEDED, seq=7, version=TARGET), at(3)),
                said(report(Phase.DOWNLOADING, seq=5, progress_percent=40), at(4)),
            ],
            live(Phase.SENT),
        )
        after = draft.changed[5]
        assert (after.outcome, after.started_at, after.completed_at, after.last_seq) == (Outcome.SUCCEEDED, at(1), at(3), 7)
        assert draft.verdicts == [*[Verdict.ACCEPTED] * 3, Verdict.AFTER_TERMINAL]
        assert [event.deployment.phase for event in draft.events] == [Phase.DOWNLOADING, Phase.INSTALLING, Phase.DONE]
        assert [move.kind for move in draft.moves] == [Kind.REPORT] * 3

    def test_gives_every_message_a_verdict(self) -> None:
        messages = [
            said(report(Phase.DOWNLOADING, deployment_id=99)),
            said(report(Phase.DOWNLOADING), device_id=8),
            said(report(Phase.DOWNLOADING, attempt=1)),
            said(report(Phase.DOWNLOADING, seq=2)),
            said(report(Phase.INSTALLING)),
            said(report(Phase.DOWNLOADING, seq=None)),
            said(hello(active=work(Phase.INSTALLING), seq=6)),
            said(hello(TARGET), device_id=9),
        ]
        assert reduced(messages, live(Phase.SENT)).verdicts == [
            Verdict.UNKNOWN_DEPLOYMENT, Verdict.FOREIGN_DEPLOYMENT, Verdict.STALE_ATTEMPT, Verdict.DUPLICATE, Verdict.ACCEPTED,
            Verdict.PHASE_REGRESSION, Verdict.ACCEPTED, Verdict.NO_CHANGE,
        ]  # fmt: skip

    def test_that_says_nothing_new_writes_nothing(self) -> None:
        draft = reduced([said(report(Phase.DOWNLOADING, seq=1)), said(report(Phase.DOWNLOADING, attempt=1))], live(Phase.SENT))
        assert not draft
        assert not draft.moves

    def test_of_another_device_moves_nothing(self) -> None:
        draft = reduced([said(report(Ending.SUCCEEDED, version=TARGET), device_id=8)], live(Phase.SENT))
        assert (draft.changed, draft.verdicts) == ({}, [Verdict.FOREIGN_DEPLOYMENT])

    def test_names_what_is_to_be_loaded(self) -> None:
        messages = [
            said(report(None, deployment_id=9)),
            said(hello(active=work(None, deployment_id=4), last=work(Ending.FAILED, deployment_id=3)), device_id=2),
            said(report(None, deployment_id=9), device_id=1),
        ]
        assert numbers_in(messages) == ([3, 4, 9], [2])


class TestAFlood:
    def test_leaves_the_newest_and_the_endings(self) -> None:
        flood = [said(report(Ending.FAILED, seq=1)), *(said(report(Phase.DOWNLOADING, seq=n)) for n in range(2, 7))]
        kept, left_out = limited(flood, 3)
        assert ([each.body.seq for each in kept], left_out) == ([1, 4, 5, 6], 2)

    def test_even_of_endings_has_an_end(self) -> None:
        kept, left_out = limited([said(report(Ending.FAILED, seq=n)) for n in range(100)], 3)
        assert ([each.body.seq for each in kept], left_out) == ([*range(94, 100)], 94)

    def test_of_one_device_takes_nothing_from_others(self) -> None:
        messages = [said(report(None, seq=n), device_id=n % 2) for n in range(10)]
        assert limited(messages, 5) == (messages, 0)


class TestAHello:
    def test_finds_the_boot_out_from_what_we_know(self) -> None:
        assert not in_view_of(hello(boot_id="b1"), "b1").rebooted
        assert in_view_of(hello(boot_id="b2"), "b1").rebooted
        assert in_view_of(hello(boot_id=None, rebooted=True), "b1").rebooted

    @pytest.mark.parametrize(("boot", "outcome"), [("b1", None), ("b2", Outcome.ROLLED_BACK)])
    def test_of_power_cut_and_fallback(self, boot: str, outcome: Outcome | None) -> None:
        draft = reduced([said(hello(boot_id=boot))], live(Phase.REBOOTING), state=known())
        assert draft.changed.get(5, live(Phase.REBOOTING)).outcome is outcome
        assert draft.states[7].boot_id == boot

    def test_tells_of_a_new_boot_once(self) -> None:
        again = [said(hello(boot_id="b2", live=False)), said(hello(boot_id="b2", live=False))]
        assert reduced(again, live(Phase.DOWNLOADING), state=known()).changed[5].resends == 1

    def test_of_a_newer_version_supersedes_what_waits_for_an_older_one(self) -> None:
        waits = live(Phase.QUEUED, from_version=None)
        assert reduced([said(hello(NEWER))], waits, state=known()).changed[5].outcome is Outcome.SUPERSEDED
        assert reduced([said(hello(NEWER))], waits, state=known(version=NEWER)).changed == {}

    def test_concerns_every_live_deployment_of_its_device(self) -> None:
        rows = [live(Phase.DOWNLOADING), live(Phase.QUEUED, id=6), live(Phase.QUEUED, id=8, device_id=9)]
        draft = reduced([said(hello(TARGET))], *rows)
        assert {number: row.outcome for number, row in draft.changed.items()} == {
            5: Outcome.SUCCEEDED, 6: Outcome.ALREADY_INSTALLED,
        }  # fmt: skip

    def test_concerns_the_last_deployment_if_none_is_live(self) -> None:
        rows = [ended(Outcome.TIMED_OUT), ended(Outcome.TIMED_OUT, id=6)]
        assert [*reduced([said(hello(TARGET))], *rows).changed] == [6]
        assert reduced([said(hello(OLD))], ended(Outcome.SUCCEEDED)).drifted == {7}

    def test_is_remembered(self) -> None:
        state = greeted(
            known(version=OLD, manifest_seq=3), hello(TARGET, boot_id="b2", active=work(None, deployment_id=9)), at(10)
        )
        assert state == known(
            version=TARGET, previous_version=OLD, version_seen_at=at(10), boot_id="b2", seq=5, manifest_seq=3, active_id=9,
            hello_at=at(10),
        )  # fmt: skip

    def test_that_is_a_birth_says_only_what_runs(self) -> None:
        before = known(seq=9, active_id=4, hello_at=at(1))
        after = greeted(before, Hello(version=TARGET, live=True, rebooted=False, snapshot=False), at(10))
        assert after == known(
            seq=9, active_id=4, hello_at=at(1), version=TARGET, previous_version=OLD, version_seen_at=at(10),
        )  # fmt: skip

    def test_that_is_retained_is_no_sign_of_life(self) -> None:
        state = greeted(known(hello_at=at(1), version_seen_at=at(1)), hello(live=False), at(10))
        assert (state.hello_at, state.version_seen_at) == (at(1), at(1))


class TestAStray:
    def test_of_an_unknown_deployment_is_told_to_stop(self) -> None:
        draft = reduced([said(hello(active=work(None, deployment_id=99, attempt=None)))])
        assert draft.strays == [Stray("press-7", 99, 1)]

    def test_of_another_devices_deployment_is_told_to_stop(self) -> None:
        draft = reduced([said(hello(active=work(None)), device_id=8)], live(Phase.DOWNLOADING))
        assert (draft.strays, draft.changed) == ([Stray("press-8", 5, 2)], {})

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_of_a_finished_deployment_is_told_to_stop(self, outcome: Outcome) -> None:
        draft = reduced([said(hello(active=work(Phase.DOWNLOADING)))] * 2, ended(outcome))
        assert (draft.changed[5].publish_pending, draft.changed[5].sends) == (Command.CANCEL, 1)
        assert draft.strays == []

    @pytest.mark.parametrize("phase", LIVE)
    def test_is_no_device_that_confirms_what_its_hello_completes(self, phase: Phase) -> None:
        """A cancel before the commit would make it fall back."""
        confirms = said(hello(TARGET, boot_id="b2", active=work(Phase.CONFIRMING)))
        draft = reduced([confirms, confirms], live(phase), state=known())
        assert (draft.changed[5].phase, draft.changed[5].publish_pending, draft.strays) == (Phase.DONE, None, [])

    def test_is_no_device_that_works_on_what_is_live(self) -> None:
        draft = reduced([said(hello(active=work(Phase.DOWNLOADING)))], live(Phase.SENT))
        assert (draft.strays, draft.changed[5].phase) == ([], Phase.DOWNLOADING)


class TestFaults:
    """Quarantine never eats slots: it is a count of the device, not of the deployment."""

    @pytest.mark.parametrize(
        ("body", "before", "faults"),
        [
            (report(Ending.FAILED), known(), 1),
            (report(Ending.FAILED), known(faults=1, faulty_version_id=3), 2),
            (report(Ending.FAILED), known(faults=1, faulty_version_id=2), 1),
            (report(Ending.ROLLED_BACK), known(), 2),
            (report(Ending.SUCCEEDED, version=TARGET), known(faults=1, faulty_version_id=3), 0),
        ],
    )
    def test_are_counted_in_a_row_by_version(self, body: Report, before: DeviceState, faults: int) -> None:
        state = reduced([said(body)], live(Phase.CONFIRMING), state=before).states[7]
        assert (state.faults, state.faulty_version_id) == (faults, 3 if faults else None)

    @pytest.mark.parametrize("ending", [Ending.REJECTED, Ending.CANCELLED])
    def test_are_no_refusals(self, ending: Ending) -> None:
        assert reduced([said(report(ending))], live(Phase.SENT), state=known(faults=1, faulty_version_id=3)).states.get(
            7, known(faults=1, faulty_version_id=3)
        ) == known(faults=1, faulty_version_id=3)

    def test_are_not_counted_twice(self) -> None:
        timed_out = ended(Outcome.TIMED_OUT)
        counted = known(faults=1, faulty_version_id=3)
        assert reduced([said(report(Ending.FAILED))], timed_out, state=counted).states.get(7, counted).faults == 1
        late = reduced([said(report(Ending.SUCCEEDED, version=TARGET))], timed_out, state=counted)
        assert late.states[7].faults == 0


class TestHistory:
    def test_has_one_line_in_ten_seconds_of_mere_progress(self) -> None:
        messages = [said(report(Phase.DOWNLOADING, seq=5 + n, progress_percent=31 + n), at(n)) for n in range(30)]
        draft = reduced(messages, live(Phase.DOWNLOADING))
        assert [(event.happened_at, event.deployment.progress_percent) for event in draft.events] == [
            (at(0), 31), (at(10), 41), (at(20), 51),
        ]  # fmt: skip
        assert (draft.changed[5].progress_percent, draft.changed[5].events) == (60, 3)

    def test_is_bounded_by_attempt_but_for_the_end(self) -> None:
        full = live(Phase.DOWNLOADING, events=2_000)
        assert reduced([said(report(Phase.INSTALLING))], full).events == []
        assert len(reduced([said(report(Ending.FAILED))], full).events) == 1
