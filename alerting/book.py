"""PURE. What alerting knows as committed: rules, where each stands, and all open alerts. `Draft` is the change to come."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from alerting.alert import THRESHOLD, Alert, Key, Place, Rule, Severity
from alerting.payloads import Texts
from alerting.rules import NORMAL, RuleState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Thresholds and devices as they were at one moment; replaced whole, never changed."""

    rules: Mapping[int, Rule] = field(default_factory=dict)
    disabled: frozenset[int] = frozenset()
    """Thresholds that exist and are switched off."""
    places: Mapping[int, Place] = field(default_factory=dict)
    logins: dict[int, str] = field(default_factory=dict)
    """Of people, by number."""


@dataclass(slots=True, eq=False)
class Book:
    """The committed truth in memory: after every commit it equals the database (docs/architecture.md, what always holds)."""

    texts: Texts
    system_id: int
    snapshot: Snapshot = field(default_factory=Snapshot)
    states: dict[int, RuleState] = field(default_factory=dict)
    alerts: dict[int, Alert] = field(default_factory=dict)
    """Open ones, by number."""
    shelved: dict[int, Alert] = field(default_factory=dict)
    """Of these, the shelved ones …"""
    absences: dict[int, Alert] = field(default_factory=dict)
    """… and those about silence: few, and looked through each second."""
    by_key: dict[Key, int] = field(default_factory=dict)
    by_metric: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    open_by_severity: Counter[Severity] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)
    """Numbers for new alerts, taken from the database's own sequence."""

    def state(self, threshold_id: int) -> RuleState:
        """Returns where a rule stands."""
        return self.states.get(threshold_id, NORMAL)

    def keep(self, alerts: Iterable[Alert]) -> None:
        """Takes alerts as committed; resolved ones leave."""
        for alert in alerts:
            place = (alert.device_id, alert.metric)
            before = self.alerts.pop(alert.id, None)
            self.shelved.pop(alert.id, None)
            self.absences.pop(alert.id, None)
            if before is not None:
                self.open_by_severity[before.severity] -= 1
            if alert.open:
                self.open_by_severity[alert.severity] += 1
                self.alerts[alert.id] = alert
                self.by_key[alert.key] = alert.id
                self.by_metric.setdefault(place, set()).add(alert.id)
                if alert.shelved_until is not None:
                    self.shelved[alert.id] = alert
                if alert.kind != THRESHOLD:
                    self.absences[alert.id] = alert
                continue
            if before is not None and self.by_key.get(before.key) == alert.id:
                del self.by_key[before.key]
            if (there := self.by_metric.get(place)) is not None:
                there.discard(alert.id)
                if not there:
                    del self.by_metric[place]
