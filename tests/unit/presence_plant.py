"""What the presence tests share: devices, a table and a broker's connection in the test's hands, on a clock of its own."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import mqtt5
from prometheus_client import CollectorRegistry

from config.settings import PresenceSettings
from ingest.births import Status
from ingest.devices import DeviceRow, Registry
from ingest.liveness import Outcome, PresenceRow
from ingest.presence import Presence
from ingest.presence_metrics import PresenceMetrics
from mqtt.connection import Connection, Deliveries
from mqtt.session import Publish

LAST_SEEN_S = 0.3
START = datetime(2026, 5, 20, 12, tzinfo=UTC)
GATEWAY, CHILD, GRANDCHILD, PRESS, RETIRED = range(1, 6)
DEVICES = (
    DeviceRow(GATEWAY, "gw-1"),
    DeviceRow(CHILD, "plc-1", via_id=GATEWAY, interval_s=10),
    DeviceRow(GRANDCHILD, "probe-1", via_id=CHILD),
    DeviceRow(PRESS, "press-1", interval_s=10),
    DeviceRow(RETIRED, "old-1", retired=True),
)


class Link:
    """Stands where the broker's connection would: numbers the messages, and keeps what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.sent = 0

    def next_id(self) -> int:
        self.sent += 1
        return self.sent

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        self.acknowledged += packet_ids


class Source:
    """Stands where the control receiver would: held or not."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Table:
    """Keeps what is saved; fails when told to."""

    def __init__(self, rows: Iterable[PresenceRow] = ()) -> None:
        self.rows = {row.id: row for row in rows}
        self.saves: list[list[PresenceRow]] = []
        self.away = False
        self.saves_left: int | None = None
        self.times: list[float] = []

    async def load(self) -> list[PresenceRow]:
        return list(self.rows.values())

    async def save(self, rows: Sequence[PresenceRow]) -> None:
        if self.away or self.saves_left == 0:
            raise ConnectionError("away")
        if self.saves_left:
            self.saves_left -= 1
        self.times.append(asyncio.get_running_loop().time())
        self.saves.append(list(rows))
        self.rows |= {row.id: row for row in rows}


class Plant:
    """Presence with everything around it in the test's hands."""

    def __init__(self, rows: Iterable[PresenceRow] = (), devices: Iterable[DeviceRow] = DEVICES) -> None:
        self.now, self.seeing = START, True
        self.link, self.table, self.registry, self.source = Link(), Table(rows), Registry(), Source()
        self.registry.load(devices)
        self.metrics = CollectorRegistry()
        self.marks: list[bytes] = []
        self.presence = Presence(
            PresenceSettings(last_seen_interval_s=LAST_SEEN_S),
            root="factory",
            instance="main",
            registry=self.registry,
            store=self.table,
            publish=self.publish,
            sees=lambda: self.seeing,
            clock=lambda: self.now,
            metrics=PresenceMetrics(self.metrics),
        )
        self.presence.hold(self.source)

    def is_blind(self) -> bool:
        return self.presence.blind

    async def publish(self, topic: str, payload: bytes) -> None:
        self.marks.append(payload)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def is_held(self) -> bool:
        return self.source.paused

    def say(self, device: str, payload: str, *, retain: bool = False) -> None:
        topic, number = f"factory/devices/{device}/status", self.link.next_id()
        publish = Publish(topic, payload.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number, retain=retain)
        self.presence.deliver(Deliveries([publish], self.now, cast("Connection", self.link)))

    def send(self, *devices: int) -> None:
        self.presence.heard(devices, self.now)

    def mark_back(self, *, control: bool = True, telemetry: bool = True) -> None:
        """The mark that is wanted by now is published and comes back."""
        marks = self.presence._marks
        number, marks._next = marks._next, marks._next + 1
        payload = f"{marks._process} {number}".encode()
        if control:
            publish = Publish(self.presence.marks_topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1)
            self.presence.deliver(Deliveries([publish], self.now, cast("Connection", Link())))
        if telemetry:
            self.presence.telemetry_mark(payload, self.now)

    def look(self, seconds: float = 2) -> None:
        self.wait(seconds)
        self.presence.look()

    def open_eyes(self) -> None:
        self.presence.look()
        self.presence.look()
        self.mark_back()
        self.presence.look()
        assert not self.presence.blind

    def status(self, number: int) -> tuple[Status, str | None]:
        state = self.presence._state(number)
        return state.status, state.reason

    def counted(self, outcome: Outcome) -> float | None:
        return self.metrics.get_sample_value("factoryd_presence_reports_total", {"outcome": outcome.value})
