"""PURE. What time and people do to a deployment: deadlines, cancel, a newer one, a recalled version, a retired device."""

from datetime import datetime, timedelta

from msgspec.structs import replace

from ota.deployment import IRREVERSIBLE, WAITING, Command, Deployment, Outcome, Phase, Status, Timeouts
from ota.transitions import allowed_s, armed, end, looked_at, requeue, resend, retry, send


def expire(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    """Returns what has become of a live deployment at `now`; itself, if no deadline has passed."""
    cancel_due, queue_until = deployment.cancel_deadline_at, deployment.queue_expires_at
    pending = deployment.status is Status.PENDING
    if cancel_due is not None and cancel_due <= now:
        return end(deployment, Outcome.CANCELLED, now, message=_reason(deployment, "the device did not answer the cancel"))
    if pending and queue_until is not None and queue_until <= now:
        sent = deployment.phase is Phase.SENT
        return end(deployment, Outcome.EXPIRED, now, message="not begun before queue_expires_at", cancel=sent)
    if deployment.attempt_deadline_at is not None and deployment.attempt_deadline_at <= now and not pending:
        return _timed_out(deployment, "attempt_timeout", "the attempt took too long", now, timeouts)
    if deployment.phase_deadline_at is not None and deployment.phase_deadline_at <= now:
        return _phase_expired(deployment, now, timeouts)
    return looked_at(deployment)


def request_cancel(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    """Returns what a cancel that people have asked for makes of a live deployment.

    What waits ends at once. What is with the device is asked to stop, and goes on reporting; it is not asked once it has
    written its flash, unless forced: a device that reboots into half an update is worse than one that finishes.
    """
    if deployment.phase in WAITING:
        return end(deployment, Outcome.CANCELLED, now, message=_reason(deployment, "cancelled"))
    if deployment.cancel_force:
        return end(deployment, Outcome.CANCELLED, now, message=_reason(deployment, "cancelled by force"), cancel=True)
    if deployment.phase in IRREVERSIBLE:
        return replace(deployment, cancel_requested_at=None, cancel_reason=None)
    asked = replace(send(deployment, Command.CANCEL), cancel_deadline_at=now + timedelta(seconds=timeouts.cancel_s))
    return looked_at(asked)


def supersede(deployment: Deployment, now: datetime, newer: str) -> Deployment:
    """A newer deployment for the same device: what has not begun gives way, what is under way is let finish."""
    if deployment.status is not Status.PENDING:
        return deployment
    message = f"a newer deployment, of {newer}, took its place"
    return end(deployment, Outcome.SUPERSEDED, now, message=message, cancel=deployment.phase is Phase.SENT)


def recall(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    """The version is recalled: what has not begun to write is stopped."""
    if deployment.status is Status.PENDING:
        sent = deployment.phase is Phase.SENT
        return end(deployment, Outcome.CANCELLED, now, code="recalled", message="the version is recalled", cancel=sent)
    if deployment.phase in IRREVERSIBLE or deployment.cancel_requested_at is not None:
        return deployment
    wanted = replace(deployment, cancel_requested_at=now, cancel_reason="the version is recalled")
    return request_cancel(wanted, now, timeouts)


def remove(deployment: Deployment, now: datetime) -> Deployment:
    """The device is retired."""
    return end(deployment, Outcome.REMOVED, now, message="the device is retired", cancel=deployment.holds_device)


def charge(deployment: Deployment, absence: timedelta, now: datetime, timeouts: Timeouts) -> Deployment:
    """Gives back the time in which we could not hear the device: every deadline moves by it, but not beyond a full new one."""
    phase_s = allowed_s(deployment.phase, timeouts)
    moved = replace(
        deployment,
        phase_deadline_at=_later(deployment.phase_deadline_at, absence, now, phase_s),
        attempt_deadline_at=_later(deployment.attempt_deadline_at, absence, now, timeouts.attempt_s),
        cancel_deadline_at=_later(deployment.cancel_deadline_at, absence, now, timeouts.cancel_s),
    )
    return looked_at(moved) if moved.phase is not Phase.BACKOFF else moved


def _phase_expired(deployment: Deployment, now: datetime, timeouts: Timeouts) -> Deployment:
    match deployment.phase:
        case Phase.SENT if not deployment.online:
            return requeue(deployment, now)
        case Phase.SENT | Phase.DEFERRED if deployment.cancel_requested_at is not None:  # the cancel's own clock decides
            return armed(deployment, now, timeouts)
        case Phase.SENT if deployment.resends < timeouts.max_resends:
            return resend(deployment, now, timeouts)
        case Phase.SENT:
            sends = deployment.resends + 1
            message = f"online, and no answer to {sends} commands"
            return end(deployment, Outcome.TIMED_OUT, now, code="no_ack", message=message, cancel=True)
        case Phase.DEFERRED if deployment.resends < timeouts.max_resends:
            return resend(deployment, now, timeouts)
        case Phase.REBOOTING:
            return _timed_out(deployment, "reboot_timeout", "it has not come back from its reboot", now, timeouts)
        case Phase.CONFIRMING:
            seen = deployment.reported_version
            message = f"it runs {seen}" if seen else "no word of the version that runs"
            return end(deployment, Outcome.TIMED_OUT, now, code="confirm_timeout", message=message)
        case _ if not deployment.online:  # switched off, most likely: the attempt's own clock decides
            return armed(deployment, now, timeouts)
        case _:
            return _timed_out(deployment, "stalled", f"no progress while {deployment.phase}", now, timeouts)


def _timed_out(deployment: Deployment, code: str, message: str, now: datetime, timeouts: Timeouts) -> Deployment:
    if deployment.attempt < deployment.max_attempts and deployment.cancel_requested_at is None:
        return retry(replace(deployment, error_code=code, error_message=message), now, timeouts)
    return end(deployment, Outcome.TIMED_OUT, now, code=code, message=message, cancel=True)


def _reason(deployment: Deployment, otherwise: str) -> str:
    return deployment.cancel_reason or otherwise


def _later(moment: datetime | None, by: timedelta, now: datetime, full_s: float) -> datetime | None:
    return max(moment, min(moment + by, now + timedelta(seconds=full_s))) if moment is not None else None
