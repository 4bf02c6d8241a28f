"""One device and its thresholds, without servers: readings in, what operators are told out."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from alerting.alert import Alert, Place, Rule, Severity
from alerting.book import Book, Snapshot
from alerting.draft import Draft, OutOfNumbers
from alerting.monitor import LastValues, Monitor
from alerting.payloads import Texts
from config.settings import AlertingSettings
from ingest.reading import METRICS, Reading

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
PLACE = Place(1, "press-7", "Press 7", "hall 2", owner_id=5, interval_s=None)
SYSTEM = 99


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def rule(number: int = 1, **fields: Any) -> Rule:
    usual: dict[str, Any] = {"metric": "temperature", "low": None, "high": 80.0, "severity": Severity.WARNING, "owner_id": 5}
    return Rule(threshold_id=number, device_id=1, **usual | fields)


def reading(recorded: float, received: float | None = None, **values: Any) -> Reading:
    """Returns a reading of device 1: its time, and that of its receipt, in seconds after NOW."""
    columns: list[Any] = [values.pop(name, None) for name in METRICS]
    return Reading._make([1, *columns, at(recorded), at(recorded if received is None else received), values or None])


class AlarmPlant:
    """A monitor with its book, as `storage` would keep them."""

    def __init__(self, *rules: Rule, place: Place = PLACE) -> None:
        self.place = place
        settings = AlertingSettings()
        self.book = Book(Texts(settings.message_template, "UTC"), SYSTEM, ids=list(range(1, 100)))
        self.monitor = Monitor(self.book, 300)
        self.told: list[tuple[str, int, bool]] = []
        """(change, threshold, whether there was an event)."""
        self.alerts: dict[int, Alert] = {}
        self.late: list[tuple[datetime, datetime]] = []
        self.monitor.restore(self.snapshot(*rules), {}, NOW)

    def snapshot(self, *rules: Rule, disabled: Iterable[int] = (), place: Place | None = None) -> Snapshot:
        return Snapshot({each.threshold_id: each for each in rules}, frozenset(disabled), {1: place or self.place}, {5: "ada"})

    def feed(self, *readings: Reading) -> "AlarmPlant":
        """One batch."""
        self.commit(lambda: self.monitor.evaluate(readings))
        return self

    def temperatures(self, *samples: tuple[float, float], together: bool = False) -> "AlarmPlant":
        """(time, value) each: in a batch of its own, unless `together`."""
        readings = [reading(moment, temperature=value) for moment, value in samples]
        if together:
            return self.feed(*readings)
        for each in readings:
            self.feed(each)
        return self

    def change(self, *rules: Rule, last: LastValues | None = None, moment: float = 0, **options: Any) -> None:
        snapshot = self.snapshot(*rules, **options)
        changed = self.monitor.changed_rules(snapshot)
        self.commit(lambda: self.monitor.change_rules(snapshot, changed, last or {}, at(moment)), moment)

    def commit(self, decide: Any, moment: float = 0) -> Draft:
        try:
            draft: Draft = decide()
        except OutOfNumbers:
            self.book.ids += range(max(self.book.ids, default=0) + 1, max(self.book.ids, default=0) + 200)
            return self.commit(decide, moment)
        self.monitor.adopt(draft, at(moment))
        for entry in draft.entries:
            self.told.append((entry.change, entry.alert.threshold_id or 0, entry.event))
            self.alerts[entry.alert.id] = entry.alert
        self.late += draft.late.values()
        return draft

    def restart(self) -> None:
        """As a new process, with what the tables hold."""
        before, marks = self.book, {number: watch.at for number, watch in self.monitor.watches.items()}
        self.book = Book(before.texts, SYSTEM, ids=before.ids)
        self.book.states.update(before.states)
        self.book.keep(replace(alert) for alert in before.alerts.values())
        self.monitor = Monitor(self.book, 300)
        self.monitor.restore(before.snapshot, marks, NOW)

    @property
    def changes(self) -> list[str]:
        return [change for change, _, _ in self.told]

    @property
    def events(self) -> list[str]:
        return [change for change, _, event in self.told if event]

    @property
    def open(self) -> Sequence[Alert]:
        return list(self.book.alerts.values())
