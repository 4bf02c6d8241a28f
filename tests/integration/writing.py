"""What the write path's tests share: devices in a real database, an intake, and the writer on a connection of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
from mqtt5 import PublishPacket, QoS
from prometheus_client import CollectorRegistry
from psycopg.rows import TupleRow

from config.settings import DatabaseSettings, IngestSettings
from config.storage_settings import RetentionSettings
from ingest.batch import Batch
from ingest.devices import Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.routes import Routes
from mqtt.connection import Connection as MqttConnection
from mqtt.connection import Deliveries
from storage.database import Connection, connect, open_pool
from storage.devices import DeviceStore
from storage.readings import SMALL_BATCH, Committed, ReadingWriter
from tests.integration.alarms import no_alerts
from tests.integration.conftest import TODAY, Database

NOW = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
DEVICES = ("press-1", "press-2", "lathe")
NOWHERE = cast("MqttConnection", None)
Verdicts = tuple[int, int, int, int]
"""Stored, merged, duplicate, refused."""


KEPT = timedelta(days=3)
MANY = SMALL_BATCH + 20
"""More than a small batch."""


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def verdicts(committed: Committed) -> Verdicts:
    return committed.stored, committed.merged, committed.duplicate, len(committed.refused)


def query(database: Database, text: str, *values: Any) -> list[TupleRow]:
    with psycopg.connect(database.admin, autocommit=True) as connection:
        cursor = connection.execute(text.encode(), values)
        return cursor.fetchall() if cursor.description else []


@dataclass
class Store:
    """One daemon's write path, from the payload to the row."""

    database: Database
    connection: Connection
    registry: Registry
    intake: Intake
    writer: ReadingWriter
    missing: asyncio.Event
    """Set when a partition is missed."""
    packets: int = 0

    def batch(self, *payloads: object, device: str = "press-1", received: float = 0, again: bool = False) -> Batch:
        """Takes messages that came in one delivery; they join the batch that waits."""
        publishes = []
        for payload in payloads:
            self.packets += 1
            raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            topic = f"factory/devices/{device}/telemetry"
            number = self.packets % 65535 + 1
            publishes.append(PublishPacket(topic, raw, qos=QoS.AT_LEAST_ONCE, packet_id=number, duplicate=again))
        self.intake.take(Deliveries(publishes, NOW + timedelta(seconds=received), NOWHERE))
        return self.intake.waiting[-1]

    async def commit(self) -> Committed:
        """Commits the batch that waits."""
        batch = self.intake.waiting.popleft()
        expected = batch.readings
        committed = await self.writer.commit(batch)
        assert sum(verdicts(committed)) == expected, "the accounting identity"
        return committed

    async def store(self, *payloads: object, device: str = "press-1", received: float = 0) -> Committed:
        self.batch(*payloads, device=device, received=received)
        return await self.commit()

    def rows(self, device: str = "press-1") -> list[dict[str, Any]]:
        """The stored readings by time: what each says, with its distance from NOW in seconds."""
        return [json_row(row) for row in query(self.database, READINGS, device)]

    def latest(self, device: str = "press-1") -> dict[str, Any]:
        (row,) = query(self.database, LATEST, device)
        return json_row(row)

    def quarantined(self) -> list[tuple[Any, ...]]:
        return query(self.database, "SELECT device, reason, payload FROM quarantine ORDER BY id")


_VALUES = """
    SELECT extract(epoch FROM {0}.recorded_at - %s)::float8, jsonb_strip_nulls(jsonb_build_object('temperature', temperature,
        'humidity', humidity, 'pressure', pressure, 'vibration', vibration, 'power_consumption', power_consumption, 'rpm', rpm)
        || coalesce(extra, '{{}}'))
    FROM {0} JOIN devices d ON d.id = {0}.device_id WHERE d.device_id = %s ORDER BY {0}.recorded_at"""
_MOMENT = f"timestamptz '{NOW.isoformat()}'"
READINGS = _VALUES.format("sensor_readings").replace("%s", _MOMENT, 1)
LATEST = _VALUES.format("device_latest").replace("%s", _MOMENT, 1)


def json_row(row: Sequence[Any]) -> dict[str, Any]:
    seconds, values = row
    return {"at": seconds, **values}


@asynccontextmanager
async def store_on(
    database: Database, *, skip_key_check: bool = True, options: IngestSettings | None = None, **limits: Any
) -> AsyncIterator[Store]:
    """Opens the write path as the daemon does at its start; its three devices are registered."""
    for name in DEVICES:
        query(
            database,
            "INSERT INTO devices (device_id, name, type, location) VALUES (%s, 'x', 'sensor', 'x') ON CONFLICT DO NOTHING",
            name,
        )
    settings = DatabaseSettings.model_validate({"url": database.daemon, **limits})
    connection = await connect(settings)
    try:
        registry = Registry()
        async with open_pool(settings) as pool:
            registry.load(await DeviceStore(pool).load_all())
        chosen = options or IngestSettings()
        missing = asyncio.Event()
        intake = Intake(chosen, RetentionSettings(), registry, Routes("factory", ()), IngestMetrics(CollectorRegistry()))
        writer = ReadingWriter(
            connection,
            registry,
            no_alerts(connection),
            skip_key_check=skip_key_check,
            kept=KEPT,
            clock=lambda: NOW,
            on_missing_partition=missing.set,
        )
        yield Store(database, connection, registry, intake, writer, missing)
    finally:
        await connection.close()


def readings(count: int, first: int = 0, **values: Any) -> list[dict[str, Any]]:
    return [{"recorded_at": at(first + n), "temperature": n, **values} for n in range(count)]
