"""Caches against a real database: in effect within a second, by any writer, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import DatabaseSettings, IngestSettings
from config.storage_settings import RetentionSettings
from factoryd.caches import CacheMetrics, Caches, Load, device_load
from ingest.devices import Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.routes import Routes
from storage.database import open_pool
from storage.devices import DeviceStore
from tests.integration.conftest import Database
from tests.integration.plant import until

INSERT = "INSERT INTO devices (device_id, name, type, location) VALUES (%s, 'Press', 'sensor', 'hall 2')"


class Cached:
    """The device cache of a daemon, and people who change things."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.settings = DatabaseSettings(url=SecretStr(database.daemon))
        self.metrics = CollectorRegistry()
        self.registry = Registry()
        self.failing = 0
        self.intake = Intake(
            IngestSettings(), RetentionSettings(), self.registry, Routes("factory", ()), IngestMetrics(CollectorRegistry())
        )

    @asynccontextmanager
    async def running(self, poll_s: float = 5.0) -> AsyncIterator["Cached"]:
        async with open_pool(self.settings) as pool:
            load = self._sometimes(device_load(DeviceStore(pool), self.registry, self.intake))
            caches = Caches(self.settings, {"devices": load}, CacheMetrics(self.metrics), poll_s)
            task = asyncio.create_task(caches.run())
            try:
                await asyncio.wait_for(caches.listening.wait(), 10)
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _sometimes(self, load: Load) -> Load:
        async def attempt() -> None:
            if self.failing:
                self.failing -= 1
                raise ConnectionError("away")
            await load()

        return attempt

    def do(self, statement: str, *values: object) -> float:
        """A person's transaction; returns when it was committed."""
        with psycopg.connect(self.database.admin, autocommit=True) as connection:
            connection.execute(statement.encode(), values or None)
        return monotonic()

    def drop_listener(self) -> None:
        self.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'factoryd listener'")

    def value(self, name: str) -> float:
        value = self.metrics.get_sample_value(name, {"cache": "devices"})
        assert value is not None
        return value


@pytest.fixture
async def cached(database: Database) -> AsyncIterator[Cached]:
    async with Cached(database).running() as cached:
        yield cached


async def test_every_change_is_in_effect_within_a_second(cached: Cached) -> None:
    waits = []
    for number in range(4):
        committed = cached.do(INSERT, f"p{number}")
        await until(lambda: f"p{number}" in cached.registry.by_name, within_s=1)  # noqa: B023
        waits.append(monotonic() - committed)
    committed = cached.do("UPDATE devices SET timezone = 'Europe/Berlin', interval_s = 5 WHERE device_id = 'p1'")
    await until(lambda: cached.registry.by_name["p1"].interval_s == 5, within_s=1)
    assert str(cached.registry.by_name["p1"].zone) == "Europe/Berlin"
    assert max(waits) < 1


async def test_a_storm_of_changes_costs_few_loads(cached: Cached) -> None:
    with psycopg.connect(cached.database.admin, autocommit=True) as connection:
        for number in range(200):
            connection.execute(INSERT, [f"s{number}"])
    await until(lambda: "s199" in cached.registry.by_name, within_s=1)
    assert cached.value("factoryd_cache_reloads_total") < 20


async def test_a_retired_device_is_no_longer_taken_by_its_known_route(cached: Cached) -> None:
    cached.do(INSERT, "p1")
    await until(lambda: "p1" in cached.registry.by_name)
    cached.intake._direct["factory/devices/p1/telemetry"] = cached.registry.by_name["p1"]
    cached.do("UPDATE devices SET retired_at = now() WHERE device_id = 'p1'")
    await until(lambda: cached.registry.by_name["p1"].retired, within_s=1)
    assert cached.intake._direct == {}


async def test_a_lost_listener_comes_back_and_loads_what_it_missed(cached: Cached) -> None:
    before = cached.value("factoryd_cache_reloads_total")
    cached.drop_listener()
    cached.do(INSERT, "missed")
    await until(lambda: "missed" in cached.registry.by_name, within_s=5)
    cached.do(INSERT, "later")
    await until(lambda: "later" in cached.registry.by_name, within_s=1)
    assert cached.value("factoryd_cache_reloads_total") > before


async def test_a_change_without_a_notification_is_found_by_its_version(database: Database) -> None:
    async with Cached(database).running(poll_s=0.1) as cached:
        await until(lambda: cached.value("factoryd_cache_reloads_total") == 1)
        cached.do(
            "SET session_replication_role = replica; INSERT INTO devices (device_id, name, type, location)"
            " VALUES ('quiet', '', '', ''); UPDATE cache_versions SET version = version + 1 WHERE name = 'devices'"
        )
        await until(lambda: "quiet" in cached.registry.by_name, within_s=2)


async def test_a_failed_load_keeps_the_old_and_shows(cached: Cached) -> None:
    cached.do(INSERT, "old")
    await until(lambda: "old" in cached.registry.by_name)
    cached.failing = 3
    cached.do(INSERT, "new")
    await until(lambda: "new" in cached.registry.by_name, within_s=5)
    assert (cached.value("factoryd_cache_reload_failures_total"), "old" in cached.registry.by_name) == (3, True)


async def test_age_tells_since_when_the_cache_is_known_to_be_true(database: Database) -> None:
    async with Cached(database).running(poll_s=0.05) as cached:
        for _ in range(20):
            await asyncio.sleep(0.05)
            youngest = cached.value("factoryd_cache_age_seconds")
        assert youngest < 0.5, "each look at the versions confirms it"
        cached.failing = 1_000_000
        cached.do(INSERT, "new")
        await until(lambda: cached.value("factoryd_cache_age_seconds") > 0.5)
