"""PURE. What one transaction is to write: deployments that have moved, their history, what devices said of themselves."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ota.deployment import FAULTS, SUCCESSES, Deployment, Outcome
from ota.reports import Hello, Verdict

COALESCE = timedelta(seconds=10)
EVENTS_PER_ATTEMPT = 1_000
QUARANTINE_FAULTS = 2


class Kind(StrEnum):
    """Whose doing an event is."""

    REPORT = "report"
    HELLO = "hello"
    DISPATCH = "dispatch"
    COMMAND = "command"
    TIMEOUT = "timeout"
    OPERATOR = "operator"
    ROLLOUT = "rollout"


class Event(NamedTuple):
    """One line of a deployment's history."""

    deployment: Deployment
    kind: Kind
    verdict: str
    seq: int | None
    detail: str | None
    happened_at: datetime


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ota_device_state."""

    device_id: int
    hardware: str | None = None
    version: str | None = None
    previous_version: str | None = None
    version_seen_at: datetime | None = None
    boot_id: str | None = None
    seq: int | None = None
    manifest_seq: int | None = None
    active_id: int | None = None
    faults: int = 0
    faulty_version_id: int | None = None
    hello_at: datetime | None = None


class Move(NamedTuple):
    """A deployment before and after; `kind` says by whom."""

    before: Deployment
    after: Deployment
    kind: Kind


class Stray(NamedTuple):
    """Work of a device on a deployment that we do not have: it is told to stop."""

    device: str
    deployment_id: int
    attempt: int


class Draft:
    """Collected by pure functions, written by storage, counted by the metrics."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.changed: dict[int, Deployment] = {}
        self.events: list[Event] = []
        self.states: dict[int, DeviceState] = {}
        self.strays: list[Stray] = []
        self.verdicts: list[Verdict] = []
        self.drifted: set[int] = set()

    def __bool__(self) -> bool:
        """True: there is something to write."""
        return bool(self.changed or self.events or self.states)

    @property
    def is_mere_progress(self) -> bool:
        """True: nothing has ended, and nothing is known about devices themselves."""
        return not self.states and all(after.holds_device for after in self.changed.values())

    def move(
        self, before: Deployment, after: Deployment, kind: Kind, now: datetime, verdict: str, seq: int | None = None
    ) -> None:
        """Takes a deployment's new state, and keeps a line of it if that is worth one."""
        if after is before:
            return
        if _is_worth_a_line(before, after, now):
            after = replace(after, events=after.events + 1, event_at=now)
            self.events.append(Event(after, kind, verdict, seq, after.error_message, now))
        self.changed[after.id] = after
        self.moves.append(Move(before, after, kind))

    def end_states(self, states: dict[int, DeviceState]) -> None:
        """Counts faults in a row per device and version, of all deployments that have ended in this draft."""
        for before, after, _ in self.moves:
            if after.outcome is before.outcome or after.outcome is None:
                continue
            state = self.states.get(after.device_id) or states.get(after.device_id) or DeviceState(device_id=after.device_id)
            self.states[after.device_id] = _judged(state, before, after)


def greeted(state: DeviceState, hello: Hello, now: datetime) -> DeviceState:
    """Returns a device's state after a hello; what a mere birth does not tell stays."""
    changed = hello.version is not None and hello.version != state.version
    known = replace(
        state,
        version=hello.version or state.version,
        previous_version=state.version if changed else state.previous_version,
        version_seen_at=now if hello.version is not None and (changed or hello.live) else state.version_seen_at,
    )
    if not hello.snapshot:
        return known
    return replace(
        known,
        hardware=hello.hardware or state.hardware,
        boot_id=hello.boot_id or state.boot_id,
        seq=hello.seq,
        manifest_seq=hello.manifest_seq if hello.manifest_seq is not None else state.manifest_seq,
        active_id=hello.active.deployment_id if hello.active is not None else None,
        hello_at=now if hello.live else state.hello_at,
    )


def _is_worth_a_line(before: Deployment, after: Deployment, now: datetime) -> bool:
    """Each step; of mere progress one line in ten seconds, and none beyond a thousand per attempt."""
    stepped = (before.status, before.phase, before.attempt, before.outcome, before.sends) != (
        after.status,
        after.phase,
        after.attempt,
        after.outcome,
        after.sends,
    )
    if after.outcome is not before.outcome:
        return True
    if after.events >= EVENTS_PER_ATTEMPT * after.attempt:
        return False
    if stepped or before.cancel_requested_at != after.cancel_requested_at:
        return True
    progressed = before.progress_percent != after.progress_percent
    return progressed and (after.event_at is None or now - after.event_at >= COALESCE)


def _judged(state: DeviceState, before: Deployment, after: Deployment) -> DeviceState:
    if after.outcome in SUCCESSES:
        return replace(state, faults=0, faulty_version_id=None)
    if after.outcome not in FAULTS or before.outcome in FAULTS:
        return state
    earlier = state.faults if state.faulty_version_id == after.version_id else 0
    least = QUARANTINE_FAULTS if after.outcome is Outcome.ROLLED_BACK else 1
    return replace(state, faults=max(earlier + 1, least), faulty_version_id=after.version_id)
