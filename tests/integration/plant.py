"""What tests of presence and caches need: the daemon's parts around one database and one broker, and devices that speak."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import psycopg
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import DatabaseSettings, IngestSettings, MqttSettings, PresenceSettings
from config.storage_settings import RetentionSettings
from ingest.batch import Batch
from ingest.devices import Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.notices import NoticeMetrics, Notices
from ingest.pipeline import Pipeline
from ingest.presence import Presence
from ingest.presence_metrics import PresenceMetrics
from ingest.reading import Quarantined
from ingest.replays import Replays
from ingest.routes import Routes
from mqtt import topics
from mqtt.metrics import PublisherMetrics, ReceiverMetrics
from mqtt.publisher import Publisher
from mqtt.receiver import Receiver
from mqtt.session import Subscription
from simulator import connection as device_side
from storage.database import connect, open_pool
from storage.devices import DeviceStore
from storage.presence import PresenceTable
from storage.readings import ReadingWriter
from storage.replays import ReplayTable
from tests.integration.alarms import no_alerts

WITHIN_S = 10.0


def now() -> datetime:
    return datetime.now(UTC)


async def until(condition: Callable[[], bool], what: str = "", within_s: float = WITHIN_S) -> None:
    """Waits for something that another process or task brings about."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


class Plant:
    """Pipeline, presence, notices, publisher and two receivers, as the daemon wires them."""

    def __init__(self, root: str, mqtt_url: str, database_url: str) -> None:
        self.root, self.mqtt_url, self.database_url = root, mqtt_url, database_url
        self.mqtt = MqttSettings(url=SecretStr(mqtt_url), root=root)
        self.database = DatabaseSettings(url=SecretStr(database_url))
        self.metrics = CollectorRegistry()
        self.registry = Registry()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Plant"]:
        async with AsyncExitStack() as stack:
            self.pool = await stack.enter_async_context(open_pool(self.database))
            self.connection = await connect(self.database)
            stack.push_async_callback(self.connection.close)
            self.devices = DeviceStore(self.pool)
            self.registry.load(await self.devices.load_all())
            tasks = self._wire()
            await self.presence.load()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            running = [group.create_task(part.run()) for part in tasks]
            await asyncio.wait_for(self._ready(), WITHIN_S)
            try:
                yield self
            finally:
                for task in running:
                    task.cancel()

    def _wire(self) -> list[Any]:
        ingest, metrics = IngestSettings(), IngestMetrics(self.metrics)
        routes = Routes(self.root, ())
        self.publisher = Publisher(self.mqtt, instance="main", version="1", clock=now, metrics=PublisherMetrics(self.metrics))
        self.intake = Intake(ingest, RetentionSettings(), self.registry, routes, metrics)
        writer = ReadingWriter(
            self.connection,
            self.registry,
            no_alerts(self.connection),
            skip_key_check=False,
            kept=timedelta(days=3),
            clock=now,
            on_missing_partition=lambda: None,
        )
        self.pipeline = Pipeline(ingest, self.intake, self.registry, writer, self.devices, metrics, now, self._committed)
        self.replays = Replays(ReplayTable(self.pool), self.intake, self.pipeline.wake, chunk=2)
        self.notices = Notices(ingest, self.root, self.publisher.publish, now, NoticeMetrics(self.metrics))
        self.presence = Presence(
            PresenceSettings(write_interval_s=0.05),
            root=self.root,
            instance="main",
            registry=self.registry,
            store=PresenceTable(self.pool),
            publish=self.publisher.publish,
            sees=lambda: self.telemetry.ready.is_set() and self.control.ready.is_set() and not self.telemetry.paused,
            clock=now,
            metrics=PresenceMetrics(self.metrics),
        )
        self.intake.own_topics[self.presence.marks_topic] = self.presence.telemetry_mark
        marks = Subscription(self.presence.marks_topic)
        self.telemetry = self._receiver("telemetry", self.pipeline.deliver, *map(Subscription, routes.filters), marks)
        statuses = Subscription(topics.status_filter(self.root), retained=True)
        self.control = self._receiver("control", self.presence.deliver, statuses, marks)
        self.pipeline.source = self.telemetry
        self.presence.hold(self.control)
        return [self.publisher, self.pipeline, self.presence, self.notices, self.telemetry, self.control]

    def _receiver(self, name: str, deliver: Any, *subscriptions: Subscription) -> Receiver:
        metrics = getattr(self, "_receiver_metrics", None) or ReceiverMetrics(self.metrics)
        self._receiver_metrics = metrics
        client_id = f"{name}-{self.root.replace('/', '-')}"
        return Receiver(
            self.mqtt, name=name, client_id=client_id, subscriptions=subscriptions, deliver=deliver, clock=now, metrics=metrics
        )

    async def _ready(self) -> None:
        for part in (self.publisher, self.telemetry, self.control):
            await part.ready.wait()

    def _committed(self, batch: Batch, refused: Any) -> None:
        assert all(isinstance(row, Quarantined) for row in refused)
        self.presence.heard_in(batch)
        self.replays.settled(batch.replayed)
        self.notices.note(refused)

    def row(self, device: str) -> tuple[Any, ...]:
        """Returns (status, reason, session, version, last_seen) as stored."""
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(
                "SELECT status::text, status_reason, status_session, reported_version, last_seen FROM devices"
                " WHERE device_id = %s",
                [device],
            ).fetchone()
        assert row is not None
        return row

    async def until_status(self, device: str, status: str, reason: str | None = None) -> None:
        await until(lambda: self.row(device)[:2] == (status, reason), f"{device} {status} {reason}")

    def readings(self, device: str) -> int:
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM sensor_readings r JOIN devices d ON d.id = r.device_id WHERE d.device_id = %s", [device]
            ).fetchone()
        assert row is not None
        return int(row[0])

    @asynccontextmanager
    async def device(self, name: str, will: bytes | None = None) -> AsyncIterator[device_side.DeviceClient]:
        """A device's connection; leaving it says DISCONNECT, `vanish` publishes the will."""
        url = urlsplit(self.mqtt_url)
        broker = device_side.Broker(str(url.hostname), url.port or 1883)
        account = (str(url.username), str(url.password))
        last = aiomqtt.Will(topics.status(self.root, name), will, 1, retain=True) if will else None
        with suppress(device_side.BrokerUnavailable):  # it vanished
            async with device_side.connect(broker, f"{self.root}-{name}".replace("/", "-"), account, last) as client:
                yield client
