"""PURE. The transition table: what a report or a hello does to a deployment (docs/ota.md has it as a table).

A deployment is fenced by (id, attempt, seq): whatever comes late, twice or in another order moves it at most forward. Terminal
is final, but for `timed_out`, which may still turn out a `late_success` or a failure with a better reason.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from ota.deployment import (
    AFTER_REBOOT,
    RANK,
    SUCCESSES,
    WAITING,
    Command,
    Deployment,
    Outcome,
    Phase,
    Status,
    Timeouts,
    VerifyMode,
)
from ota.error_codes import REFUSALS_RETRIED, Cure, cure_of
from ota.reports import Ending, Hello, Report, Verdict, Work
from ota.transitions import armed, dispatch, end, looked_at, resend, retry, send, succeed
from ota.versions import is_newer


class Step(NamedTuple):
    """What became of it. `drift`: the device runs something else than its finished deployment says."""

    deployment: Deployment
    verdict: Verdict
    drift: bool = False


def on_report(deployment: Deployment, report: Report, now: datetime, timeouts: Timeouts) -> Step:
    """Returns what a report makes of a deployment; the caller has seen that it is this deployment's and this device's."""
    if deployment.terminal:
        return _after_terminal(deployment, report, now)
    if report.attempt is not None and report.attempt != deployment.attempt:
        return _other_attempt(deployment, report, now, timeouts)
    if report.seq is not None and report.seq <= deployment.last_seq:
        return Step(deployment, Verdict.DUPLICATE)
    if deployment.occupied and deployment.phase in WAITING:
        return Step(deployment, Verdict.NOT_SENT)
    match report.said:
        case Ending.SUCCEEDED:
            moved = _succeeded(deployment, report, now, timeouts)
        case Ending.TOO_LATE:
            moved = looked_at(replace(deployment, cancel_requested_at=None, cancel_deadline_at=None))
        case Ending():
            moved = _ended(deployment, report.said, report, now, timeouts)
        case _:
            return _progressed(deployment, report, now, timeouts)
    return Step(_noted(moved, report, now) if moved.attempt == deployment.attempt else moved, Verdict.ACCEPTED)


def on_hello(deployment: Deployment, hello: Hello, now: datetime, timeouts: Timeouts, ran: str | None = None) -> Step:
    """Returns what a hello of the device makes of its live, or of its last, deployment; `ran`: its version until then."""
    if deployment.terminal:
        return _hello_after_terminal(deployment, hello, now)
    if hello.version == deployment.version:
        never_begun = deployment.status is Status.PENDING
        outcome = Outcome.ALREADY_INSTALLED if never_begun else Outcome.SUCCEEDED
        return Step(succeed(deployment, outcome, now, hello.version), Verdict.ACCEPTED)
    if hello.active is not None and hello.active.deployment_id == deployment.id:
        return on_report(deployment, _report_of(hello.active, hello), now, timeouts)
    ended = _ending_told(deployment, hello)
    if ended is not None:
        step = on_report(deployment, ended, now, timeouts)
        if step.verdict in {Verdict.ACCEPTED, Verdict.FUTURE_ATTEMPT}:
            return step
    if hello.active is not None or not hello.snapshot:
        return Step(deployment, Verdict.NO_CHANGE)
    return _hello_of_idle(deployment, hello, now, timeouts, deployment.from_version or ran)


def _hello_of_idle(deployment: Deployment, hello: Hello, now: datetime, timeouts: Timeouts, old: str | None) -> Step:
    version = hello.version
    if version is not None and old not in {None, version} and is_newer(version, deployment.version):
        message = f"the device runs {version}, which is newer"
        return Step(end(deployment, Outcome.SUPERSEDED, now, message=message), Verdict.ACCEPTED)
    if deployment.phase in AFTER_REBOOT:
        if not hello.rebooted or version is None:
            return Step(deployment, Verdict.NO_CHANGE)
        ended = end(
            deployment, Outcome.ROLLED_BACK, now, code="boot_failed", message=f"after its reboot the device runs {version}"
        )
        return Step(replace(ended, reported_version=version), Verdict.ACCEPTED)
    again = (hello.live or hello.rebooted) and deployment.phase not in WAITING and deployment.cancel_requested_at is None
    if not again or deployment.resends >= timeouts.max_resends:
        return Step(deployment, Verdict.NO_CHANGE)
    return Step(resend(deployment, now, timeouts), Verdict.ACCEPTED)


def _hello_after_terminal(deployment: Deployment, hello: Hello, now: datetime) -> Step:
    on_target = hello.version == deployment.version
    if on_target and deployment.outcome is Outcome.TIMED_OUT:
        return Step(succeed(deployment, Outcome.LATE_SUCCESS, now, hello.version), Verdict.ACCEPTED)
    ended = _ending_told(deployment, hello)
    if ended is not None:
        deployment, verdict, _ = _after_terminal(deployment, ended, now)
        if verdict is Verdict.ACCEPTED:
            return Step(deployment, verdict)
    known = hello.version is not None
    drift = known and on_target is not (deployment.outcome in SUCCESSES)
    return Step(deployment, Verdict.AFTER_TERMINAL, drift)


def _after_terminal(deployment: Deployment, report: Report, now: datetime) -> Step:
    unheard = Step(deployment, Verdict.AFTER_TERMINAL)
    if deployment.outcome is not Outcome.TIMED_OUT:
        return unheard
    attempt = deployment.attempt if report.attempt is None else report.attempt
    runs_it = report.said is Ending.SUCCEEDED and report.version == deployment.version
    old = attempt == deployment.attempt and report.seq is not None and report.seq <= deployment.last_seq
    if old or attempt > deployment.attempt or (attempt < deployment.attempt and not runs_it):
        return unheard
    match report.said:
        case Ending.SUCCEEDED if runs_it or _word_is_enough(deployment, report):
            return Step(succeed(deployment, Outcome.LATE_SUCCESS, now, report.version), Verdict.ACCEPTED)
        case Ending.FAILED | Ending.REJECTED | Ending.ROLLED_BACK:
            outcome = Outcome(report.said.value)
            ended = end(deployment, outcome, now, code=report.error_code, message=report.error_message)
            return Step(ended, Verdict.ACCEPTED)
        case _:
            return unheard


def _other_attempt(deployment: Deployment, report: Report, now: datetime, timeouts: Timeouts) -> Step:
    """An older attempt moves nothing, unless the device runs the target; a newer one than ours we have forgotten."""
    assert report.attempt is not None, "checked by the caller"
    if report.attempt < deployment.attempt:
        if report.said is Ending.SUCCEEDED and report.version == deployment.version:
            return Step(succeed(deployment, Outcome.SUCCEEDED, now, report.version), Verdict.ACCEPTED)
        return Step(deployment, Verdict.STALE_ATTEMPT)
    ahead = report.attempt + 1 - deployment.attempt
    adopted = replace(
        deployment,
        attempt=report.attempt + 1,
        max_attempts=deployment.max_attempts + ahead,
        last_seq=0,
        progress_percent=0,
        bytes_done=None,
    )
    if adopted.phase in WAITING:
        return Step(adopted, Verdict.FUTURE_ATTEMPT)
    if adopted.cancel_requested_at is not None:
        return Step(send(adopted, Command.CANCEL), Verdict.FUTURE_ATTEMPT)
    return Step(dispatch(adopted, now, timeouts, None), Verdict.FUTURE_ATTEMPT)


def _progressed(deployment: Deployment, report: Report, now: datetime, timeouts: Timeouts) -> Step:
    phase = _phase_of(deployment, report)
    if phase is None:
        return Step(deployment, Verdict.PHASE_REGRESSION)
    percent = _percent(deployment, report)
    worked = (
        phase is not deployment.phase
        or percent != deployment.progress_percent
        or (report.bytes_done or 0) > (deployment.bytes_done or 0)
        or (report.progress_percent is None and report.bytes_done is None)
    )
    moved = replace(
        deployment,
        status=Status.IN_PROGRESS,
        phase=phase,
        phase_since=deployment.phase_since if phase is deployment.phase else now,
        progress_percent=percent,
        bytes_done=report.bytes_done if report.bytes_done is not None else deployment.bytes_done,
        started_at=deployment.started_at or now,
        holds_device=True,
        publish_pending=None if deployment.publish_pending is Command.UPDATE else deployment.publish_pending,
        attempt_deadline_at=_attempt_deadline(deployment, now, timeouts),
        last_seq=report.seq if report.seq is not None else deployment.last_seq,
        last_report_at=now,
        reported_version=report.version or deployment.reported_version,
    )
    return Step(armed(moved, now, timeouts, report.retry_after_s) if worked else moved, Verdict.ACCEPTED)


def _attempt_deadline(deployment: Deployment, now: datetime, timeouts: Timeouts) -> datetime:
    """What waits has none: its device works on what we think is not sent. Without one it could be stalled for ever."""
    return deployment.attempt_deadline_at or now + timedelta(seconds=timeouts.attempt_s)


def _phase_of(deployment: Deployment, report: Report) -> Phase | None:
    """Returns the phase that a report leads to, or None if that would be a step back that nothing vouches for."""
    before = deployment.phase
    if not isinstance(report.said, Phase):  # in progress, and no finer word
        return before if RANK[before] > RANK[Phase.DOWNLOADING] else Phase.DOWNLOADING
    if report.seq is None and RANK[report.said] < RANK[before]:
        may_defer = Phase.DEFERRED in {report.said, before} and before not in AFTER_REBOOT
        return report.said if may_defer else None
    return report.said


def _percent(deployment: Deployment, report: Report) -> int | None:
    """Never falls within an attempt; None until it is first known."""
    if report.progress_percent is None:
        return deployment.progress_percent
    return max(deployment.progress_percent or 0, min(100, max(0, report.progress_percent)))


def _succeeded(deployment: Deployment, report: Report, now: datetime, timeouts: Timeouts) -> Deployment:
    if report.version == deployment.version or _word_is_enough(deployment, report):
        return succeed(deployment, Outcome.SUCCEEDED, now, report.version)
    if report.version is not None:
        message = f"the device says succeeded, and runs {report.version}"
        ended = end(deployment, Outcome.VERSION_MISMATCH, now, code="unknown", message=message)
        return replace(ended, reported_version=report.version)
    confirming = replace(
        deployment,
        status=Status.IN_PROGRESS,
        phase=Phase.CONFIRMING,
        phase_since=now,
        started_at=deployment.started_at or now,
        holds_device=True,
        publish_pending=None if deployment.publish_pending is Command.UPDATE else deployment.publish_pending,
        attempt_deadline_at=_attempt_deadline(deployment, now, timeouts),
    )
    return armed(confirming, now, timeouts)


def _word_is_enough(deployment: Deployment, report: Report) -> bool:
    return report.version is None and deployment.verify_mode is VerifyMode.REPORT


def _ended(deployment: Deployment, said: Ending, report: Report, now: datetime, timeouts: Timeouts) -> Deployment:
    code, message = report.error_code, report.error_message
    cure = cure_of(code, report.retryable)
    if said is Ending.ROLLED_BACK:
        return end(deployment, Outcome.ROLLED_BACK, now, code=code or "boot_failed", message=message)
    if said is Ending.CANCELLED or (deployment.cancel_requested_at is not None and cure is not Cure.NEVER):
        return end(
            deployment, Outcome.CANCELLED, now, code=code, message=message or deployment.cancel_reason or "by the device"
        )
    if cure is Cure.NEW_URL and deployment.resends < timeouts.max_resends:
        return deployment if deployment.phase in WAITING else resend(deployment, now, timeouts)
    again = cure is Cure.RETRY or (cure is Cure.RETRY_ONCE and deployment.error_code != code)
    if said is Ending.REJECTED:
        again = again and code in REFUSALS_RETRIED
    if again and deployment.attempt < deployment.max_attempts:
        return retry(replace(deployment, error_code=code, error_message=message), now, timeouts)
    return end(deployment, Outcome(said.value), now, code=code or "unknown", message=message)


def _noted(deployment: Deployment, report: Report, now: datetime) -> Deployment:
    return replace(
        deployment,
        last_seq=report.seq if report.seq is not None else deployment.last_seq,
        last_report_at=now,
        reported_version=report.version or deployment.reported_version,
    )


def _ending_told(deployment: Deployment, hello: Hello) -> Report | None:
    """What a hello says of how our deployment ended. Without an attempt it may tell of any: it counts in the first one only."""
    last = hello.last
    if last is None or last.deployment_id != deployment.id or not isinstance(last.said, Ending):
        return None
    return _report_of(last, hello) if last.attempt is not None or deployment.attempt == 1 else None


def _report_of(work: Work, hello: Hello) -> Report:
    """What a hello says about our deployment counts as a report."""
    return Report(
        deployment_id=work.deployment_id,
        said=work.said,
        attempt=work.attempt,
        seq=hello.seq,
        progress_percent=work.progress_percent,
        version=hello.version if isinstance(work.said, Ending) else None,
        error_code=work.error_code,
        error_message=work.error_message,
    )
