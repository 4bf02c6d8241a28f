"""Presence end to end: real devices' births, wills and readings, a real broker, real rows."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import MqttSettings
from factoryd.active import CONTROL_WINDOW
from ingest.births import Status
from ingest.liveness import PresenceRow
from ingest.unacknowledged import MOST
from mqtt import topics
from mqtt.metrics import ReceiverMetrics
from mqtt.receiver import Receiver
from simulator.connection import DeviceClient
from storage.database import DatabaseUnavailable, open_pool
from storage.presence import PresenceTable
from tests.integration.conftest import Database
from tests.integration.plant import Plant, now, until
from tests.services import Broker

BIRTH = b'{"status":"online","session":"s1","version":"1.4.2"}'
ACCEPTED = "factoryd_presence_reports_total"
WILL = b'{"status":"offline","session":"s1"}'


@pytest.fixture
async def plant(database: Database, mosquitto: Broker, mqtt_root: str) -> AsyncIterator[Plant]:
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO devices (device_id, name, type, location, interval_s) VALUES ('gw-1', 'G', 'gateway', 'hall', NULL),"
            " ('plc-1', 'P', 'sensor', 'hall', NULL), ('quick-1', 'Q', 'sensor', 'hall', 0.2)"
        )
        connection.execute(
            "UPDATE devices SET via_id = (SELECT id FROM devices WHERE device_id = 'gw-1') WHERE device_id = 'plc-1'"
        )
    today = "CREATE TABLE today PARTITION OF sensor_readings FOR VALUES FROM (current_date - 1) TO (current_date + 2)"
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute(today)
    async with Plant(mqtt_root, mosquitto.tools_url, database.daemon).running() as plant:
        yield plant


async def test_birth_will_and_the_death_of_a_replaced_connection(plant: Plant) -> None:
    status = topics.status(plant.root, "gw-1")
    async with plant.device("gw-1", WILL) as device:
        await device.deliver(status, BIRTH, retain=True)
        await plant.until_status("gw-1", "online")
        assert plant.row("gw-1")[2:4] == ("s1", "1.4.2")
        assert plant.row("gw-1")[4] is not None, "live, although the device asked the broker to retain it"
        await device.deliver(status, b'{"status":"error","reason":"spindle jam"}', retain=True)
        await plant.until_status("gw-1", "error", "spindle jam")
        await device.deliver(status, BIRTH.replace(b"s1", b"s2"), retain=True)
        await device.deliver(status, WILL, retain=True)
        await device.deliver(status, BIRTH.replace(b"s1", b"s3").replace(b"1.4.2", b"1.5.0"), retain=True)
        await until(lambda: plant.row("gw-1")[3] == "1.5.0")
        stale = plant.metrics.get_sample_value("factoryd_presence_reports_total", {"outcome": "stale_session"})
        assert (plant.row("gw-1")[0], stale) == ("online", 1)
        await device.deliver(status, BIRTH, retain=True)
        await until(lambda: plant.row("gw-1")[2] == "s1")
        device.vanish()
    await plant.until_status("gw-1", "offline")


async def test_readings_in_the_backlog_of_the_dead_do_not_bring_them_back(plant: Plant) -> None:
    telemetry = topics.telemetry(plant.root, "gw-1")
    async with plant.device("gw-1", WILL) as device:
        await device.deliver(topics.status(plant.root, "gw-1"), BIRTH, retain=True)
        await plant.until_status("gw-1", "online")
        plant.telemetry.pause()
        for value in range(50):
            await device.deliver(telemetry, json.dumps({"temperature": value}).encode())
        device.vanish()
    await plant.until_status("gw-1", "offline")
    died_at = now()
    plant.telemetry.resume()
    await until(lambda: plant.readings("gw-1") == 50)
    await until(lambda: not plant.presence._unsettled)
    await plant.pipeline.drain()
    await plant.presence.flush()
    assert plant.row("gw-1")[0] == "offline"
    assert plant.row("gw-1")[4] > died_at, "they are traffic all the same"
    async with plant.device("gw-1") as device:
        await device.deliver(telemetry, b'{"temperature":1}')
        await plant.until_status("gw-1", "online")


async def test_a_retained_birth_is_no_sign_of_life_now(database: Database, mosquitto: Broker, mqtt_root: str) -> None:
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute("INSERT INTO devices (device_id, name, type, location) VALUES ('gw-1', 'G', 'gateway', 'hall')")
    plant = Plant(mqtt_root, mosquitto.tools_url, database.daemon)
    async with plant.device("gw-1") as device:
        await device.deliver(topics.status(mqtt_root, "gw-1"), BIRTH, retain=True)
    async with plant.running():
        await plant.until_status("gw-1", "online")
        assert plant.row("gw-1")[2:] == ("s1", "1.4.2", None)


async def test_a_gateways_death_and_its_childs_own_traffic(plant: Plant) -> None:
    async with plant.device("gw-1", b"offline") as gateway:
        await gateway.deliver(topics.telemetry(plant.root, "plc-1"), b'{"temperature":1}')
        await plant.until_status("plc-1", "online")
        gateway.vanish()
    await plant.until_status("plc-1", "offline", "gateway gw-1 is offline")
    await until(lambda: not plant.presence._unsettled)
    async with plant.device("gw-1") as gateway:
        await gateway.deliver(topics.telemetry(plant.root, "plc-1"), b'{"temperature":2}')
        await plant.until_status("plc-1", "online")


async def test_silence_is_noticed_and_ends_with_the_next_reading(plant: Plant) -> None:
    async with plant.device("quick-1") as device:
        for value in (1, 2):
            await device.deliver(topics.telemetry(plant.root, "quick-1"), b'{"temperature":%d}' % value)
            await until(lambda: plant.row("quick-1")[0] == "online")
            await plant.until_status("quick-1", "offline", "silent for more than 0.6 s")
    assert not plant.presence.blind


async def test_a_rejected_message_is_answered_to_its_device(plant: Plant) -> None:
    async with plant.device("gw-1") as device:
        await device.subscribe(topics.rejected(plant.root, "gw-1"), qos=1)
        await device.deliver(topics.telemetry(plant.root, "gw-1"), b'{"rpm":"fast"}')
        async with asyncio.timeout(10):
            message = await anext(aiter(device.messages))
        assert isinstance(message.payload, bytes)
        body = json.loads(message.payload)
        assert (body["reason"], body["suppressed"], body["topic"]) == ("bad_type", 0, topics.telemetry(plant.root, "gw-1"))


async def test_a_flood_of_status_messages_waits_at_the_broker(database: Database, plant: Plant) -> None:
    status, most = topics.status(plant.root, "gw-1"), 2 * MOST
    lock = await psycopg.AsyncConnection.connect(database.admin)
    async with lock, plant.device("gw-1") as device:
        await lock.execute("LOCK TABLE devices IN EXCLUSIVE MODE")
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(deliver_many(device, status, most // 100))
        await until(lambda: plant.control.paused, "the control receiver is held")
        assert len(plant.presence._writing.unacknowledged) < most
        await lock.rollback()
        await until(lambda: not plant.control.paused and not plant.presence._writing.unacknowledged, "all acknowledged")
        await until(lambda: plant.metrics.get_sample_value(ACCEPTED, {"outcome": "accepted"}) == most)


async def deliver_many(device: DeviceClient, topic: str, count: int) -> None:
    for _ in range(count):
        await device.deliver(topic, b"online")


def test_the_control_session_has_a_window_of_its_own() -> None:
    settings, metrics = MqttSettings(url=SecretStr("mqtt://127.0.0.1")), ReceiverMetrics(CollectorRegistry())
    make = partial(
        Receiver,
        settings,
        name="control",
        client_id="c",
        subscriptions=(),
        deliver=print,
        clock=now,
        metrics=metrics,
    )
    assert make()._options.receive_maximum == settings.receive_maximum
    assert make(receive_maximum=CONTROL_WINDOW)._options.receive_maximum == CONTROL_WINDOW


async def test_the_store_takes_any_text_in_one_statement(database: Database, plant: Plant) -> None:
    table = PresenceTable(plant.pool)
    rows = sorted(await table.load())
    assert [row.status for row in rows] == [Status.OFFLINE] * 3
    changed = [row._replace(status=Status.ERROR, reason="ü'\"\\ 漢", session="{a,b}", last_seen=now()) for row in rows]
    await table.save(changed[::-1])
    assert sorted(await table.load()) == changed


async def test_a_lost_database_is_a_reason_to_try_again(plant: Plant) -> None:
    settings = plant.database.model_copy(update={"url": SecretStr("postgresql://nobody@127.0.0.1:1/x")})
    async with open_pool(settings.model_copy(update={"connect_timeout_s": 0.2})) as pool:
        with pytest.raises(DatabaseUnavailable):
            await PresenceTable(pool).save([PresenceRow(1)])
