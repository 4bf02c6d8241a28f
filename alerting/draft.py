"""PURE. A change to the book of alerts, before it is committed: new versions of alerts, and what operators are told.

Thrown away if its transaction fails; then the same input makes the same draft again. Who is told: an event for each raise,
acknowledgement and resolve; none while a worse alert on the same side of the same metric is open (`inhibited_by`), none while
it is shelved; what was told of as active is always told of as resolved.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from alerting.alert import THRESHOLD, Alert, Entry, Key, Place, Rule, Severity, Status
from alerting.book import Book, Snapshot
from alerting.rules import RuleState


class OutOfNumbers(Exception):
    """More alerts are raised than numbers are at hand: fetch more, and evaluate again."""


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of an operator's command."""

    command_id: int
    outcome: str
    detail: str
    response_topic: str | None = None
    response: bytes = b""
    correlation_data: bytes | None = None


@dataclass(slots=True, eq=False)
class Draft:
    """An overlay on the book."""

    book: Book
    states: dict[int, RuleState] = field(default_factory=dict)
    alerts: dict[int, Alert] = field(default_factory=dict)
    raised: set[int] = field(default_factory=set)
    """Alerts that have no row yet."""
    entries: list[Entry] = field(default_factory=list)
    marks: dict[int, datetime] = field(default_factory=dict)
    """By device: evaluation time of its last evaluated reading."""
    late: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)
    """By device: from when to when readings came late."""
    outcomes: list[Outcome] = field(default_factory=list)
    closed: list[tuple[int, datetime]] = field(default_factory=list)
    """Late windows that are dealt with: by device and when they were last extended."""
    snapshot: Snapshot | None = None
    taken: int = 0
    _keys: dict[Key, int] = field(default_factory=dict)
    _places: dict[tuple[int, str], set[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.entries or self.states or self.late or self.outcomes or self.closed)

    @property
    def context(self) -> Snapshot:
        """Rules and devices as this draft sees them."""
        return self.snapshot or self.book.snapshot

    def state(self, threshold_id: int) -> RuleState:
        """Returns where a rule stands, this draft included."""
        found = self.states.get(threshold_id)
        return self.book.state(threshold_id) if found is None else found

    def alert(self, alert_id: int) -> Alert | None:
        """Returns an open alert, this draft included."""
        found = self.alerts.get(alert_id) or self.book.alerts.get(alert_id)
        return found if found is not None and found.open else None

    def alert_of(self, key: Key) -> Alert | None:
        """Returns the open alert of a device, kind and threshold."""
        alert_id = self._keys.get(key) or self.book.by_key.get(key)
        return self.alert(alert_id) if alert_id is not None else None

    def open_alerts(self) -> Iterator[Alert]:
        """Yields all open alerts, this draft included."""
        for alert_id in {**self.book.alerts, **self.alerts}:
            if (alert := self.alert(alert_id)) is not None:
                yield alert

    def place(self, device_id: int) -> Place:
        """Returns the device; one that is unknown by now has only a number."""
        return self.context.places.get(device_id) or Place(device_id, str(device_id), str(device_id), "")

    def note_late(self, device_id: int, first: datetime, last: datetime) -> None:
        """Remembers that a device's past is to be looked at again."""
        known = self.late.get(device_id)
        self.late[device_id] = (min(first, known[0]), max(last, known[1])) if known else (first, last)

    def raise_crossing(self, rule: Rule, state: RuleState, value: float, at: datetime) -> None:
        """A rule has become active."""
        assert state.side is not None, "a raised state has a side"
        if self.alert_of((rule.device_id, THRESHOLD, rule.threshold_id)) is not None:
            return
        place, triggered_at = self.place(rule.device_id), state.crossed_at or at
        self.raise_alert(
            Alert(
                id=self._number(),
                device_id=rule.device_id,
                kind=THRESHOLD,
                threshold_id=rule.threshold_id,
                owner_id=rule.owner_id,
                severity=rule.severity,
                metric=rule.metric,
                side=state.side,
                topic=alert_topic(place, rule.metric, rule.threshold_id),
                triggered_at=triggered_at,
                message=self.book.texts.crossing(rule, place, state.side, value, triggered_at),
                value=value,
                peak_value=state.peak,
                min_value=rule.low,
                max_value=rule.high,
                flapping=state.flapping,
                shelved_until=state.shelved_until if state.shelved_until and state.shelved_until > at else None,
                instruction=rule.instruction,
            ),
            at,
        )

    def raise_absence(
        self, place: Place, kind: str, metric: str, severity: Severity, what: str, at: datetime, owner_id: int | None = None
    ) -> None:
        """A device, or some of its metrics, has fallen silent."""
        alert = Alert(
            id=self._number(),
            device_id=place.id,
            kind=kind,
            owner_id=owner_id or place.owner_id or self.book.system_id,
            severity=severity,
            metric=metric,
            topic=alert_topic(place, metric, 0),
            triggered_at=at,
            message=self.book.texts.absence(place, what, at),
        )
        self.raise_alert(alert, at)

    def raise_alert(self, alert: Alert, at: datetime) -> None:
        """Takes a new alert; what is less severe on the same side falls silent."""
        beside = list(self._beside(alert))
        worse = _worst(other for other in beside if other.severity.rank > alert.severity.rank)
        event = worse is None and alert.shelved_until is None
        alert = replace(alert, inhibited_by=worse.id if worse else None, announced=event)
        self.raised.add(alert.id)
        self._put(Entry(alert, "raised", at, event))
        for other in beside:
            if other.severity.rank < alert.severity.rank and other.inhibited_by is None:
                self.change(other, "inhibited", at, event=False, inhibited_by=alert.id)

    def change(
        self,
        alert: Alert,
        change: str,
        at: datetime,
        *,
        event: bool,
        user_id: int | None = None,
        note: str | None = None,
        **fields: Any,
    ) -> Alert:
        """Makes the next version of an alert."""
        if event and fields.get("status", alert.status) is not Status.RESOLVED:
            event = alert.inhibited_by is None and (alert.shelved_until is None or alert.shelved_until <= at)
            fields["announced"] = alert.announced or event
        changed = replace(alert, version=alert.version + 1, **fields)
        self._put(Entry(changed, change, at, event, user_id, note))
        return changed

    def resolve(
        self, alert: Alert, resolution: str, at: datetime, *, user_id: int | None = None, note: str | None = None, **fields: Any
    ) -> None:
        """Ends an alert; what it had silenced speaks up, unless something else silences it."""
        self.change(
            alert,
            "resolved",
            at,
            event=alert.announced or alert.inhibited_by is None,
            user_id=user_id,
            note=note,
            **{
                "status": Status.RESOLVED,
                "resolved_at": max(at, alert.triggered_at),
                "resolved_by": user_id,
                "resolution": resolution,
                "stale": False,
                **fields,
            },
        )
        for other in list(self._beside(alert)):
            if other.inhibited_by == alert.id:
                worse = _worst(each for each in self._beside(other) if each.severity.rank > other.severity.rank)
                freed = replace(other, inhibited_by=worse.id if worse else None)
                change = "uninhibited" if worse is None else "inhibited"
                self.change(freed, change, at, event=worse is None and not other.announced)

    def release(self, alert: Alert, change: str, at: datetime, *, user_id: int | None = None, note: str | None = None) -> None:
        """Ends shelving: the event that was held is sent now."""
        free = replace(alert, shelved_until=None)
        self.change(free, change, at, event=not alert.announced, user_id=user_id, note=note)

    def _beside(self, alert: Alert) -> Iterator[Alert]:
        """Yields open alerts on the same side of the same metric."""
        where = (alert.device_id, alert.metric)
        for alert_id in self.book.by_metric.get(where, set()) | self._places.get(where, set()):
            other = self.alert(alert_id)
            if (
                other is not None
                and other.id != alert.id
                and other.side is alert.side
                and alert.kind == THRESHOLD == other.kind
            ):
                yield other

    def _put(self, entry: Entry) -> None:
        alert = entry.alert
        self.alerts[alert.id] = alert
        self._keys[alert.key] = alert.id
        self._places.setdefault((alert.device_id, alert.metric), set()).add(alert.id)
        self.entries.append(entry)

    def _number(self) -> int:
        if self.taken >= len(self.book.ids):
            raise OutOfNumbers
        self.taken += 1
        return self.book.ids[self.taken - 1]

    def adopt_foreign(self, entry: Entry) -> None:
        """Takes a version of an alert as plain SQL has made it."""
        self._put(entry)

    def raise_past(self, alert: Alert) -> None:
        """Takes an alert that late readings have shown, resolved as it is: for the history only."""
        alert = replace(alert, id=self._number())
        self.raised.add(alert.id)
        self._put(Entry(alert, "retrospective", alert.triggered_at, False))


def _worst(alerts: Iterable[Alert]) -> Alert | None:
    return max(alerts, key=lambda alert: alert.severity.rank, default=None)


def alert_topic(place: Place, metric: str, threshold_id: int) -> str:
    """Returns the levels below {root}/alerts/; any writer can put any text into a metric's name."""
    level = "".join("_" if sign in "/+#\0" else sign for sign in metric) or "_"
    return f"{place.device}/{level}/{threshold_id}"
