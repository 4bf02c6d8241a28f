"""PURE. Who is online: the rules. Times are ours (`received_at`), never the device's clock.

* A birth says online, a death offline, and `error` stands until the device itself says otherwise. A death that names another
  session than the current birth's belongs to a connection that has been replaced: it is ignored.
* Traffic says online, too. But telemetry and status travel on two connections, and readings sent before a death may still
  wait in the telemetry queue. So after a death we are deaf to the device's traffic until a mark, which we published after we
  had heard of the death, has come back through the telemetry queue (`ingest.marks`): what is received later was sent later.
* Silence beyond a few of its intervals says offline. Any later traffic undoes that at once.
* A retained message is old: it is no sign of life, and does not undo a silence unless it names another session.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from ingest.births import NO_REASON, Report, Status

FOREVER = datetime.max.replace(tzinfo=UTC)
RECENT = timedelta(seconds=60)
"""The first message of a device that waited longer than this (a replay from the quarantine) does not say that it is online."""
SILENT = "silent for"
"""How the reason of a time-out begins; after a restart it tells a silence from a death."""


class Outcome(StrEnum):
    """What became of a status message: a closed set, so that it can be a metric label."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    """A retained message that says nothing new."""
    STALE_SESSION = "stale_session"
    UNKNOWN_DEVICE = "unknown_device"
    RETIRED_DEVICE = "retired_device"
    MALFORMED = "malformed"
    CLEARED = "cleared"


class PresenceRow(NamedTuple):
    """The presence columns of one device."""

    id: int
    status: Status = Status.OFFLINE
    reason: str | None = None
    session: str | None = None
    version: str | None = None
    last_seen: datetime | None = None


@dataclass(slots=True, eq=False)
class Liveness:
    """One device. `dead`: a death stands, its own or its gateway's; what was received up to `deaf_until` does not undo it."""

    id: int
    status: Status = Status.OFFLINE
    reason: str | None = None
    session: str | None = None
    version: str | None = None
    last_seen: datetime | None = None
    since: datetime | None = None
    fault: str | None = None
    dead: bool = False
    deaf_until: datetime = FOREVER
    written: PresenceRow | None = None

    @property
    def row(self) -> PresenceRow:
        """What is to be stored."""
        return PresenceRow(self.id, self.status, self.reason, self.session, self.version, self.last_seen)

    @property
    def silent(self) -> bool:
        """Offline by a time-out, not by a death."""
        return self.status is Status.OFFLINE and not self.dead and (self.reason or "").startswith(SILENT)


def restored(row: PresenceRow) -> Liveness:
    """Returns the state of a device as it was stored; its traffic may be as old as its death, so the dead stay deaf."""
    state = Liveness(row.id, row.status, row.reason, row.session, row.version, row.last_seen, written=row)
    state.fault = (row.reason or NO_REASON) if row.status is Status.ERROR else None
    was_here = row.last_seen is not None or row.session is not None
    state.dead = row.status is Status.OFFLINE and was_here and not (row.reason or "").startswith(SILENT)
    return state


def note_report(state: Liveness, report: Report, received_at: datetime, *, retained: bool) -> Outcome:
    """Applies a birth, a death or an error."""
    if report.status is Status.OFFLINE:
        return _note_death(state, report, retained=retained)
    if retained and state.silent and report.session in {None, state.session}:
        return Outcome.REPEATED
    fault = (report.reason or NO_REASON) if report.status is Status.ERROR else None
    _revive(state, received_at, fault)
    state.session = report.session if report.session or fault is None else state.session
    state.version = report.version or state.version
    if not retained:
        state.last_seen = received_at
    return Outcome.ACCEPTED


def bury(state: Liveness, reason: str | None) -> None:
    """A death: its own, or its gateway's. Who was offline before keeps the reason."""
    if state.status is not Status.OFFLINE:
        state.status, state.reason = Status.OFFLINE, reason
    state.dead, state.deaf_until, state.fault = True, FOREVER, None


def hear(state: Liveness, received_at: datetime, now: datetime) -> bool:
    """Notes traffic; tells whether it brought the device online."""
    seen = state.last_seen
    if seen is None or received_at > seen:
        state.last_seen = received_at
    if state.status is not Status.OFFLINE:
        return False
    deaf_until = state.deaf_until if state.dead else seen if seen is not None else now - RECENT
    if received_at <= deaf_until:
        return False
    _revive(state, received_at, state.fault)
    return True


def find_silent(state: Liveness, allowed_s: float, granted: datetime, now: datetime) -> bool:
    """Tells whether the device has just been found silent.

    Args:
        state: the device.
        allowed_s: longest silence, in seconds.
        granted: when we began to see; no silence is counted before it.
        now: aware UTC.
    """
    if state.status is Status.OFFLINE:
        return False
    last = max(granted, state.since or granted, state.last_seen or granted)
    if (now - last).total_seconds() <= allowed_s:
        return False
    state.status, state.reason = Status.OFFLINE, f"{SILENT} more than {allowed_s:g} s"
    return True


def _note_death(state: Liveness, report: Report, *, retained: bool) -> Outcome:
    if report.session and state.session and report.session != state.session:
        return Outcome.STALE_SESSION
    if retained and state.dead:
        return Outcome.REPEATED
    bury(state, report.reason)
    state.reason = report.reason
    return Outcome.ACCEPTED


def _revive(state: Liveness, received_at: datetime, fault: str | None) -> None:
    state.status, state.reason, state.fault = (Status.ERROR, fault, fault) if fault else (Status.ONLINE, None, None)
    state.dead, state.since = False, received_at
