"""Quarantined messages tried again: each once, in order, and gone when they are stored."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import Database
from tests.integration.plant import Plant, until
from tests.services import Broker

INSERT = """
    INSERT INTO quarantine (received_at, topic, device, reason, payload, replay_requested_at)
    SELECT now(), %s, 'press-1', 'unknown_device', convert_to('{"temperature":' || n || '}', 'UTF8'),
        CASE WHEN n <= 5 THEN now() END
    FROM generate_series(1, 6) AS n"""


@pytest.fixture
async def plant(database: Database, mosquitto: Broker, mqtt_root: str) -> AsyncIterator[Plant]:
    partition = "CREATE TABLE today PARTITION OF sensor_readings FOR VALUES FROM (current_date - 1) TO (current_date + 2)"
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute(partition)
    async with Plant(mqtt_root, mosquitto.tools_url, database.daemon).running() as plant:
        yield plant


def ask(plant: Plant, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(plant.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


async def test_replayed_rows_are_stored_once_and_leave_the_quarantine(plant: Plant) -> None:
    ask(plant, "INSERT INTO devices (device_id, name, type, location) VALUES ('press-1', 'P', 'sensor', 'hall')")
    ask(plant, INSERT, f"{plant.root}/devices/press-1/telemetry")
    fed = [await plant.replays.feed(), await plant.replays.feed()]
    stored = [value for (value,) in ask(plant, "SELECT temperature FROM sensor_readings ORDER BY recorded_at")]
    left = ask(plant, "SELECT convert_from(payload, 'UTF8') FROM quarantine")
    assert (fed, stored, left) == ([5, 0], [1, 2, 3, 4, 5], [('{"temperature":6}',)])


async def test_what_is_still_refused_is_quarantined_anew_and_not_tried_for_ever(plant: Plant) -> None:
    ask(plant, INSERT, f"{plant.root}/devices/nobody/telemetry")
    assert await plant.replays.feed() == 5
    assert ask(plant, "SELECT count(*), count(replay_requested_at) FROM quarantine") == [(6, 0)]


async def test_a_replay_brings_no_device_online_that_is_long_gone(plant: Plant) -> None:
    ask(plant, "INSERT INTO devices (device_id, name, type, location) VALUES ('press-1', 'P', 'sensor', 'hall')")
    ask(plant, INSERT, f"{plant.root}/devices/press-1/telemetry")
    ask(plant, "UPDATE quarantine SET received_at = now() - interval '1 hour'")
    await plant.replays.feed()
    await until(lambda: plant.row("press-1")[4] is not None)
    assert plant.row("press-1")[0] == "offline"
