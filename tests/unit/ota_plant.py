"""Deployments in every phase, and what devices say about them: for tests of the deployment's state machine."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ota.deployment import IRREVERSIBLE, SUCCESSES, WAITING, Command, Deployment, Outcome, Phase, Status, Timeouts
from ota.reports import Ending, Hello, Report, Work

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
TIMEOUTS = Timeouts()
OLD, TARGET, OTHER, NEWER = "1.0.0", "2.0.0", "1.5.0", "3.0.0"
LIVE = [phase for phase in Phase if phase is not Phase.DONE]
WORKING = [phase for phase in LIVE if phase not in WAITING | {Phase.SENT}]
"""In progress."""
BEFORE_REBOOT = [phase for phase in WORKING if phase not in {Phase.REBOOTING, Phase.CONFIRMING}]
REVERSIBLE = [phase for phase in WORKING if phase not in IRREVERSIBLE]
ALLOWED_S = {
    Phase.SENT: TIMEOUTS.ack_s,
    Phase.DEFERRED: TIMEOUTS.stall_s + TIMEOUTS.ack_s,
    Phase.INSTALLING: TIMEOUTS.install_s,
    Phase.INSTALLED: TIMEOUTS.install_s,
    Phase.REBOOTING: TIMEOUTS.reboot_s,
    Phase.CONFIRMING: TIMEOUTS.confirm_s,
}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def live(phase: Phase, **fields: Any) -> Deployment:
    """A deployment that stands in a phase since START: its second attempt of three, four messages of it heard."""
    waits = phase in WAITING
    known: dict[str, Any] = {
        "id": 5, "device_id": 7, "device": "press-1", "version_id": 3, "version": TARGET, "from_version": OLD,
        "status": Status.PENDING if waits or phase is Phase.SENT else Status.IN_PROGRESS,
        "phase": phase, "attempt": 2, "last_seq": 4, "progress_percent": 30, "phase_since": START, "holds_device": not waits,
        "started_at": None if waits or phase is Phase.SENT else START,
        "publish_pending": Command.UPDATE if phase is Phase.SENT else None,
    }  # fmt: skip
    if waits:
        known |= {"next_action_at": at(60) if phase is Phase.BACKOFF else None}
    else:
        due = at(ALLOWED_S.get(phase, TIMEOUTS.stall_s))
        known |= {"phase_deadline_at": due, "attempt_deadline_at": at(TIMEOUTS.attempt_s), "next_action_at": due}
    return Deployment(**(known | fields))


def ended(outcome: Outcome, **fields: Any) -> Deployment:
    """A deployment that has ended at START."""
    status = Status.COMPLETED if outcome in SUCCESSES else Status.FAILED
    bare: dict[str, Any] = {
        "status": status, "outcome": outcome, "completed_at": START, "holds_device": False, "publish_pending": None,
        "phase_deadline_at": None, "attempt_deadline_at": None, "next_action_at": None,
    }  # fmt: skip
    return live(Phase.DONE, **(bare | fields))


def report(said: Phase | Ending | None, **fields: Any) -> Report:
    """The next message of the attempt in work."""
    bare: dict[str, Any] = {"deployment_id": 5, "said": said, "attempt": 2, "seq": 5}
    return Report(**(bare | fields))


def hello(version: str | None = OLD, **fields: Any) -> Hello:
    """A device's word on what it runs, said now, in the boot that we know, idle."""
    bare: dict[str, Any] = {"version": version, "live": True, "rebooted": False, "boot_id": "b1", "seq": 5}
    return Hello(**(bare | fields))


def work(said: Phase | Ending | None, *, deployment_id: int = 5, attempt: int | None = 2, **fields: Any) -> Work:
    return Work(deployment_id, attempt, said, **({"progress_percent": None} | fields))


def shape(row: Deployment) -> tuple[str, str, str]:
    return row.status.value, row.phase.value, row.outcome.value if row.outcome is not None else "-"
