"""PURE. What the daemon knows of its own health: named checks, and the state it is in.

Liveness asks whether a restart would help (event loop, receiver); it never looks at the database or the broker, or one outage
there would restart every daemon. Readiness asks whether readings are being stored now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Probe = Callable[[], tuple[bool, str]]
"""Answers at once: (fine?, what was seen)."""

READINESS = ("lock", "database", "caches", "subscribed", "lag")
LIVENESS = ("event_loop", "receiver")
NOT_ASKED = "not asked yet"


class State(StrEnum):
    """Where the daemon is between start and end."""

    WAITING = "waiting"
    """For the database."""
    STANDBY = "standby"
    """Another daemon is active on this database."""
    ACTIVE = "active"
    DRAINING = "draining"
    """Asked to stop: storing what was received."""


@dataclass(frozen=True, slots=True)
class Check:
    """One named question and its present answer."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one kind. `status` is "ok", "failing", or the state that explains why we are not ready."""

    status: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return self.status == "ok"

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong, one text per failing check."""
        return tuple(f"{check.name}: {check.detail}" for check in self.checks if not check.ok)

    @property
    def summary(self) -> str:
        """One line: the status, and what is wrong."""
        return ": ".join(filter(None, (self.status, "; ".join(self.reasons))))


class Health:
    """Set by the daemon as it goes, read by /livez, /readyz, the metrics and the watchdog."""

    def __init__(self) -> None:
        self._leading = State.WAITING
        self._draining = False
        self._liveness: dict[str, Probe] = {}
        self._readiness: dict[str, Probe] = {}
        self._set("database", ok=False, detail=NOT_ASKED)
        self._stand_down("waiting for the database")
        for name in LIVENESS:
            self.watch(name, lambda: (True, "not started yet"))

    @property
    def state(self) -> State:
        """Present state; draining outranks all."""
        return State.DRAINING if self._draining else self._leading

    @property
    def asked_for_database(self) -> bool:
        """False until the first answer."""
        return self._readiness["database"]()[1] != NOT_ASKED

    def passed(self, name: str, detail: str = "") -> None:
        """Answers a check with yes, until told otherwise."""
        self._set(name, ok=True, detail=detail)

    def failed(self, name: str, detail: str) -> None:
        """Answers a check with no, until told otherwise."""
        self._set(name, ok=False, detail=detail)

    def passes(self, name: str) -> bool:
        """Asks one check."""
        return (self._readiness | self._liveness)[name]()[0]

    def watch(self, name: str, probe: Probe) -> None:
        """Lets `probe` answer a check whenever it is asked; it must neither wait nor raise."""
        if name in READINESS:
            self._readiness[name] = probe
        elif name in LIVENESS:
            self._liveness[name] = probe
        else:
            raise ValueError(f"no health check is named {name!r}: choose one of {', '.join(READINESS + LIVENESS)}")

    def leadership_changed(self, state: str) -> None:
        """Told by `storage.leader`: "database" (cannot be reached), "standby" or "active"."""
        if state == "active":
            self._leading = State.ACTIVE
            self.passed("lock", "held")
        elif state == "standby":
            self._leading = State.STANDBY
            self._stand_down("another factoryd is active on this database")
        else:
            self.leadership_lost()

    def leadership_lost(self) -> None:
        """Forgets all that held only while we were active."""
        self._leading = State.WAITING
        self._stand_down("waiting for the database")

    def draining(self) -> None:
        """From now on not ready: no way back. That the receiver ends is then no fault."""
        self._draining = True
        self.watch("receiver", lambda: (True, "draining"))

    def liveness(self) -> Report:
        """Would a restart help?"""
        checks = tuple(Check(name, *self._liveness[name]()) for name in LIVENESS)
        return Report("ok" if all(check.ok for check in checks) else "failing", checks)

    def readiness(self) -> Report:
        """Are readings being stored now?"""
        checks = tuple(Check(name, *self._readiness[name]()) for name in READINESS)
        if self.state is not State.ACTIVE:
            return Report(self.state.value, checks)
        return Report("ok" if all(check.ok for check in checks) else "failing", checks)

    def _set(self, name: str, *, ok: bool, detail: str) -> None:
        self.watch(name, lambda: (ok, detail))

    def _stand_down(self, why: str) -> None:
        self.failed("lock", why)
        for name in ("caches", "subscribed", "lag"):
            self.failed(name, "not the active daemon")
        self.watch("receiver", lambda: (True, "not started: not the active daemon"))


def subscribed_probe(sessions: dict[str, Callable[[], bool]]) -> Probe:
    """Returns a check that every MQTT session, by name, is connected and subscribed."""

    def probe() -> tuple[bool, str]:
        missing = [name for name, is_ready in sessions.items() if not is_ready()]
        return not missing, f"not subscribed: {', '.join(missing)}" if missing else ", ".join(sessions)

    return probe


def lag_probe(lag_s: Callable[[], float], max_lag_s: float) -> Probe:
    """Returns a check that the oldest unacknowledged message is younger than `max_lag_s` seconds."""

    def probe() -> tuple[bool, str]:
        lag = lag_s()
        return lag < max_lag_s, f"oldest unacknowledged message is {lag:.1f} s old, limit {max_lag_s:g} s"

    return probe


def tasks_probe(tasks: dict[str, Callable[[], bool]]) -> Probe:
    """Returns a check that every task, by name, still runs; each function tells whether its task does."""

    def probe() -> tuple[bool, str]:
        ended = [name for name, is_running in tasks.items() if not is_running()]
        return not ended, f"ended: {', '.join(ended)}" if ended else "running"

    return probe
