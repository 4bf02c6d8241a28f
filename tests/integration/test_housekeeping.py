"""Partitions ahead, and what is deleted by age, by the clock, on a real database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import DatabaseSettings, Settings
from config.storage_settings import RetentionSettings
from factoryd.partitioning import Housekeeping, HousekeepingMetrics
from storage.database import open_pool
from tests.integration.conftest import TODAY, Database
from tests.integration.plant import until

NOON = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
AHEAD = "factoryd_partition_days_ahead"
INSERT = """
    INSERT INTO quarantine (received_at, topic, reason, payload, replay_requested_at)
    SELECT %s::timestamptz - make_interval(days => n), 't', 'empty', '', CASE WHEN n = 40 THEN now() END
    FROM generate_series(1, 40) AS n"""


class House:
    def __init__(self, database: Database, pool: Any) -> None:
        self.database, self.pool, self.now = database, pool, NOON
        self.metrics = CollectorRegistry()

    def keeping(self, owner_url: str | None) -> Housekeeping:
        self.metrics = CollectorRegistry()
        url = SecretStr(owner_url) if owner_url else None
        settings = Settings(
            database=DatabaseSettings(url=SecretStr(self.database.daemon), owner_url=url),
            retention=RetentionSettings(readings_days=5, partitions_ahead_days=6, quarantine_days=30, gaps_days=40),
        )
        return Housekeeping(settings, self.pool, lambda: self.now, HousekeepingMetrics(self.metrics))

    def value(self, name: str) -> float | None:
        return self.metrics.get_sample_value(name)

    def count(self, query: str) -> int:
        with psycopg.connect(self.database.admin) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
async def house(database: Database) -> AsyncIterator[House]:
    async with open_pool(DatabaseSettings(url=SecretStr(database.daemon))) as pool:
        yield House(database, pool)


async def test_partitions_are_made_for_the_retention_and_ahead(house: House) -> None:
    keeping = house.keeping(house.database.owner)
    assert await keeping.make_partitions()
    assert (
        house.count("SELECT count(*) FROM pg_inherits WHERE inhparent = 'sensor_readings'::regclass"),
        house.value(AHEAD),
    ) == (12, 6)
    house.now += timedelta(days=1)
    assert await keeping.make_partitions()
    assert house.value(AHEAD) == 6


async def test_without_the_owner_partitions_are_only_counted(house: House) -> None:
    assert await house.keeping(None).make_partitions()
    assert (house.value(AHEAD), house.value("factoryd_partition_failures_total")) == (3, 0)


async def test_an_owner_that_is_away_is_tried_again_soon(house: House) -> None:
    assert not await house.keeping("postgresql://nobody@127.0.0.1:1/x").make_partitions()
    assert house.value("factoryd_partition_failures_total") == 1


async def test_a_url_that_is_not_the_owners_is_told_and_not_fatal(house: House) -> None:
    assert await house.keeping(house.database.daemon).make_partitions()
    assert house.value("factoryd_partition_failures_total") == 1


async def test_old_quarantined_messages_go_but_not_those_to_be_replayed(house: House) -> None:
    with psycopg.connect(house.database.admin, autocommit=True) as connection:
        connection.execute(INSERT, [NOON])
    task = asyncio.create_task(house.keeping(house.database.owner).run())
    try:
        await until(lambda: house.value("factoryd_quarantine_deleted_total") == 9)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert house.count("SELECT count(*) FROM quarantine") == 31
    assert house.count("SELECT count(*) FROM quarantine WHERE replay_requested_at IS NOT NULL") == 1
    assert house.value(AHEAD) == 6


async def test_published_versions_of_alerts_go_after_a_day_and_waiting_ones_never(house: House) -> None:
    with psycopg.connect(house.database.admin, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO alert_outbox (alert_id, version, topic, payload, retain, created_at, published_at)"
            " SELECT n, 1, 't', '', true, %(now)s::timestamptz - make_interval(days => 9),"
            " CASE WHEN n > 1 THEN %(now)s::timestamptz - make_interval(hours => n::int) END FROM generate_series(1, 3000) n",
            {"now": NOON},
        )
    assert await house.keeping(None).delete_old()
    assert house.count("SELECT count(*) FROM alert_outbox") == 24
    assert house.count("SELECT count(*) FROM alert_outbox WHERE published_at IS NULL") == 1


async def test_gaps_are_forgotten_after_their_time_closed_or_not(house: House) -> None:
    with psycopg.connect(house.database.admin, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO devices (device_id, name, type, location) VALUES ('press-1', 'x', 'sensor', 'x');"
            "INSERT INTO sequence_gaps (device_id, first_seq, last_seq, missing, noticed_at, closed_at)"
            " SELECT d.id, n, n, CASE WHEN n % 2 = 0 THEN '{}' ELSE int8multirange(int8range(n, n + 1)) END, now(),"
            " CASE WHEN n % 2 = 0 THEN now() END FROM devices d, generate_series(1, 3000) n"
        )
        connection.execute("UPDATE sequence_gaps SET noticed_at = %s - make_interval(hours => first_seq::int)", [NOON])
    assert await house.keeping(None).delete_old()
    assert house.count("SELECT count(*) FROM sequence_gaps") == 40 * 24
    assert house.count("SELECT count(*) FROM sequence_gaps WHERE closed_at IS NULL") == 20 * 24
