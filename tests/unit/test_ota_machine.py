"""A deployment's state machine, cell by cell: what each report and each hello does to a deployment in each phase.

A cell reads `status/phase/outcome verdict`; `=` stands for "as it was".
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ota.deployment import WAITING, Deployment, Outcome, Phase, Status, VerifyMode
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
    shape,
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
