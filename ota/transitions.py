"""PURE. The moves of a deployment, each with its deadlines; `ota.machine` and `ota.timers` say which one when."""

from datetime import datetime, timedelta
from zlib import crc32

from msgspec.structs import replace

from ota.deployment import SUCCESSES, Command, Deployment, Outcome, Phase, Status, Timeouts


def send(deployment: Deployment, command: Command) -> Deployment:
    """Asks for a command; the outbox has it when the row is committed."""
    return replace(deployment, publish_pending=command, sends=deployment.sends + 1)


def dispatch(deployment: Deployment, now: datetime, timeouts: Timeouts, from_version: str | None) -> Deployment:
    """The first command of an attempt."""
    return armed(
        replace(
            send(deployment, Command.UPDATE),
            status=Status.PENDING,
            phase=Phase.SENT,
            phase_since=now,
            holds_device=True,
            resends=0,
            from_version=from_version or deployment.from_version,
            dispatched_at=now,
            attempt_deadline_at=now + timedelta(seconds=timeouts.attempt_s),
        ),
        now,
        timeouts,
    )


def resend(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    """The same command of the same attempt: a device that has it already carries on."""
    again = replace(send(deployment, Command.UPDATE), resends=deployment.resends + 1)
    return armed(again, now, timeouts)


def requeue(deployment: Deployment, now: datetime) -> Deployment:
    """Back to waiting, with its attempt: the device is not there."""
    queued = replace(
        deployment,
        status=Status.PENDING,
        phase=Phase.QUEUED,
        phase_since=now,
        holds_device=False,
        publish_pending=None if deployment.publish_pending is Command.UPDATE else deployment.publish_pending,
        phase_deadline_at=None,
        attempt_deadline_at=None,
    )
    return looked_at(queued)


def retry(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    """Another attempt, after a pause; meanwhile the device is free and no slot is held."""
    pause = back_off(deployment, timeouts)
    return replace(
        deployment,
        status=Status.PENDING,
        phase=Phase.BACKOFF,
        phase_since=now,
        attempt=deployment.attempt + 1,
        last_seq=0,
        progress_percent=0,
        bytes_done=None,
        resends=0,
        holds_device=False,
        publish_pending=None,
        phase_deadline_at=None,
        attempt_deadline_at=None,
        next_action_at=now + pause,
    )


def back_off(deployment: Deployment, timeouts: Timeouts) -> timedelta:
    """Uniform in [d/2, d], d = base · factor^(attempt - 1), at most the cap; the spread is the row's own: no dice."""
    most = min(timeouts.retry_cap_s, timeouts.retry_base_s * timeouts.retry_factor ** min(deployment.attempt - 1, 60))
    spread = crc32(b"%d:%d" % (deployment.id, deployment.attempt)) / 2**32
    return timedelta(seconds=most * (0.5 + spread / 2))


def end(
    deployment: Deployment,
    outcome: Outcome,
    now: datetime,
    *,
    code: str | None = None,
    message: str | None = None,
    cancel: bool = False,
) -> Deployment:
    """The end; `cancel` tells the device to stop."""
    succeeded = outcome in SUCCESSES
    ended = replace(
        deployment,
        status=Status.COMPLETED if succeeded else Status.FAILED,
        phase=Phase.DONE,
        phase_since=now,
        outcome=outcome,
        progress_percent=100 if succeeded else deployment.progress_percent,
        error_code=None if succeeded else code,
        error_message=None if succeeded else message,
        completed_at=now,
        holds_device=False,
        publish_pending=None,
        phase_deadline_at=None,
        attempt_deadline_at=None,
        next_action_at=None,
        cancel_deadline_at=None,
    )
    return send(ended, Command.CANCEL) if cancel else ended


def succeed(deployment: Deployment, outcome: Outcome, now: datetime, version: str | None) -> Deployment:
    """The end that is wanted; verified if the device has told the version that runs."""
    ended = end(deployment, outcome, now)
    return replace(ended, reported_version=version, verified_at=now) if version is not None else ended


def armed(deployment: Deployment, now: datetime, timeouts: Timeouts, retry_after_s: float | None = None) -> Deployment:
    """Sets the phase's deadline anew.

    A look that is due before it stays where it is: then it finds nothing, and moves on. So mere progress changes no indexed
    column, and the row's update stays on its page.
    """
    phase_deadline = now + timedelta(seconds=allowed_s(deployment.phase, timeouts, retry_after_s))
    before, after = deployment.next_action_at, _next_look(deployment, phase_deadline)
    early = before is not None and after is not None and now < before <= after
    return replace(deployment, phase_deadline_at=phase_deadline, next_action_at=before if early else after)


def looked_at(deployment: Deployment) -> Deployment:
    """Sets the moment at which the row is looked at: its earliest deadline."""
    return replace(deployment, next_action_at=_next_look(deployment, deployment.phase_deadline_at))


def _next_look(deployment: Deployment, phase_deadline: datetime | None) -> datetime | None:
    """A back-off has its own: its end."""
    if deployment.phase is Phase.BACKOFF:
        return deployment.next_action_at
    earliest = phase_deadline
    queued_until = deployment.queue_expires_at if deployment.status is Status.PENDING else None
    for deadline in (deployment.attempt_deadline_at, deployment.cancel_deadline_at, queued_until):
        if deadline is not None and (earliest is None or deadline < earliest):
            earliest = deadline
    return earliest


ALLOWED = {
    Phase.SENT: "ack_s",
    Phase.INSTALLING: "install_s",
    Phase.INSTALLED: "install_s",
    Phase.REBOOTING: "reboot_s",
    Phase.CONFIRMING: "confirm_s",
}
"""The time-out of a phase; of all others stall_s."""


def allowed_s(phase: Phase, timeouts: Timeouts, retry_after_s: float | None = None) -> float:
    """Returns how long a phase may take without progress, in seconds."""
    if phase is Phase.DEFERRED:
        return (retry_after_s or timeouts.stall_s) + timeouts.ack_s
    allowed: float = getattr(timeouts, ALLOWED.get(phase, "stall_s"))
    return allowed
