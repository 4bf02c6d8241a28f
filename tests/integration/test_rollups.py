"""Roll-ups hold what the readings say, also when these come late, twice, or are absurd; on a real database."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from config.settings import DatabaseSettings
from factoryd.rollups import RollupMetrics, Rollups
from storage.database import Pool, open_pool
from storage.retention import delete_old_rollups
from storage.rollups import ROLLED_UNTIL, RollerDeposed, RollupTable, hour_end
from tests.integration.conftest import Database
from tests.integration.writing import NOW, Store, at, query, store_on

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Roller:
    """The roll-ups of one daemon whose clock is set by the test."""

    def __init__(self, pool: Pool, store: Store) -> None:
        self.now = NOW
        self.pool, self.table = pool, RollupTable(pool, "first")
        self.metrics = RollupMetrics(CollectorRegistry())
        self.rollups = Rollups(self.table, lambda: self.now, store.writer.move_mark, self.metrics)

    async def catch_up(self, after: timedelta) -> None:
        self.now = NOW + after
        await self.rollups.catch_up()


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    async with store_on(database) as store:
        yield store


@pytest.fixture
async def roller(database: Database, store: Store) -> AsyncIterator[Roller]:
    async with open_pool(DatabaseSettings.model_validate({"url": database.daemon})) as pool:
        roller = Roller(pool, store)
        await roller.rollups.load()
        yield roller


def buckets(database: Database, table: str, columns: str = "readings, temperature_count, temperature_sum") -> list[Any]:
    return query(
        database,
        f"SELECT d.device_id, extract(epoch FROM bucket - timestamptz '{NOW.isoformat()}')::int, {columns}"
        f" FROM {table} r JOIN devices d ON d.id = r.device_id ORDER BY d.device_id, bucket",
    )


ALL = "readings, temperature_count, temperature_sum, temperature_min, temperature_max, temperature_first, temperature_last"


async def test_minutes_and_hours_hold_what_the_readings_say(store: Store, roller: Roller, database: Database) -> None:
    values = [(10, 5.0), (30, 7.0), (59.9, 1.0), (60, 3.0), (3599, 4.0)]
    await store.store(*({"recorded_at": at(s), "temperature": v} for s, v in values), received=3600)
    await store.store({"recorded_at": at(20), "humidity": 50}, device="lathe", received=3600)
    await roller.catch_up(HOUR + 2 * MINUTE)
    assert buckets(database, "readings_1m", ALL) == [
        ("lathe", 0, 1, None, None, None, None, None, None),
        ("press-1", 0, 3, 3, 13.0, 1.0, 7.0, 5.0, 1.0),
        ("press-1", 60, 1, 1, 3.0, 3.0, 3.0, 3.0, 3.0),
        ("press-1", 3540, 1, 1, 4.0, 4.0, 4.0, 4.0, 4.0),
    ]
    assert buckets(database, "readings_1h", ALL) == [
        ("lathe", 0, 1, None, None, None, None, None, None),
        ("press-1", 0, 5, 5, 20.0, 1.0, 7.0, 5.0, 4.0),
    ]


async def test_metrics_beyond_the_six_are_rolled_up_too(store: Store, roller: Roller, database: Database) -> None:
    await store.store(
        {"recorded_at": at(1), "oil": 3, "open": True, "note": "x", "huge": 1e300},
        {"recorded_at": at(2), "oil": 5.5},
        {"recorded_at": at(61), "oil": 4},
        received=120,
    )
    await roller.catch_up(4 * MINUTE)
    assert buckets(database, "readings_1m", "extra") == [
        ("press-1", 0, {"oil": [2, 8.5, 3, 5.5, 3, 5.5], "open": [1, 1, 1, 1, 1, 1]}),
        ("press-1", 60, {"oil": [1, 4, 4, 4, 4, 4]}),
    ]
    assert buckets(database, "readings_1h", "extra") == [
        ("press-1", 0, {"oil": [3, 12.5, 3, 5.5, 3, 4], "open": [1, 1, 1, 1, 1, 1]})
    ]


async def test_absurd_values_stop_nobody(store: Store, roller: Roller, database: Database) -> None:
    await store.store(*({"recorded_at": at(s), "temperature": 1.7e308} for s in (1, 2)), received=60)
    await store.store({"recorded_at": at(1), "temperature": 20}, device="lathe", received=60)
    await roller.catch_up(3 * MINUTE)
    assert [row[0] for row in buckets(database, "readings_1m")] == ["lathe", "press-1"]


async def test_a_late_reading_repairs_its_bucket_and_no_other(store: Store, roller: Roller, database: Database) -> None:
    await store.store(*({"recorded_at": at(s), "temperature": 1} for s in (0, 60, 4000)), received=4000)
    await roller.catch_up(2 * HOUR)
    query(database, "UPDATE readings_1m SET readings = 99 WHERE bucket = %s", NOW + timedelta(seconds=3960))
    await store.store({"recorded_at": at(30), "temperature": 8}, received=7200)
    await roller.catch_up(2 * HOUR)
    assert [row[1:] for row in buckets(database, "readings_1m")] == [(0, 2, 2, 9.0), (60, 1, 1, 1.0), (3960, 99, 1, 1.0)]
    assert [row[1:] for row in buckets(database, "readings_1h")] == [(0, 3, 3, 10.0), (3600, 1, 1, 1.0)]
    assert query(database, "SELECT count(*) FROM rollup_repairs") == [(0,)]


async def test_readings_on_time_leave_no_mark(store: Store, roller: Roller, database: Database) -> None:
    await roller.catch_up(timedelta())
    await store.store({"recorded_at": at(0), "temperature": 1})
    await store.store(*({"recorded_at": at(s), "temperature": 1} for s in range(1, 400)), received=400)
    assert query(database, "SELECT count(*) FROM rollup_repairs") == [(0,)]


@pytest.mark.parametrize("count", [1, 400])
async def test_a_late_reading_is_marked_on_every_path(count: int, store: Store, roller: Roller, database: Database) -> None:
    """Alone (one statement), by COPY, and by the merging upsert."""
    await roller.catch_up(HOUR)
    await store.store(*({"recorded_at": at(s), "temperature": 1} for s in range(count)), received=3600)
    await store.store({"recorded_at": at(count // 2), "humidity": 2}, received=3600)
    marks = query(database, "SELECT hour, cardinality(devices) FROM rollup_repairs")
    assert marks == [(NOW, 1), (NOW, 1)]
    await roller.catch_up(HOUR)
    assert sum(row[2] for row in buckets(database, "readings_1m")) == count
    assert roller.metrics.repairs._value.get() == 2


async def test_any_order_of_arrival_makes_the_same_roll_ups(store: Store, roller: Roller, database: Database) -> None:
    draw = random.Random(5)
    seconds = draw.sample(range(7200), 300)
    for step in range(10):
        chunk = seconds[step * 30 : step * 30 + 30]
        for device in ("press-1", "press-2"):
            await store.store(*({"recorded_at": at(s), "temperature": s % 17} for s in chunk), device=device, received=7200)
        await roller.catch_up(timedelta(seconds=720 * step))
    await roller.catch_up(2 * HOUR + 2 * MINUTE)
    expected = query(
        database,
        """SELECT d.device_id, extract(epoch FROM date_trunc('minute', recorded_at) - %s)::int, count(*), count(temperature),
            sum(temperature) FROM sensor_readings r JOIN devices d ON d.id = r.device_id GROUP BY 1, 2 ORDER BY 1, 2""",
        NOW,
    )
    assert buckets(database, "readings_1m") == expected
    assert sum(row[2] for row in buckets(database, "readings_1h")) == 600


async def test_a_bucket_whose_readings_are_gone_stays(store: Store, roller: Roller, database: Database) -> None:
    await store.store(*({"recorded_at": at(s), "temperature": 1} for s in (0, 1, 2)), received=60)
    await roller.catch_up(3 * MINUTE)
    query(database, "DELETE FROM sensor_readings")
    query(
        database,
        """INSERT INTO archive_files (table_name, day, url, state, row_count, size_bytes, sha256, schema_version, from_at,
            to_at, verified_at, completed_at)
            VALUES ('sensor_readings', %s, 'x', 'complete', 3, 1, repeat('0', 64), 7, now(), now(), now(), now())""",
        NOW.date(),
    )
    await store.store({"recorded_at": at(30), "temperature": 8}, received=300)
    await roller.catch_up(6 * MINUTE)
    assert [row[1:] for row in buckets(database, "readings_1m")] == [(0, 3, 3, 3.0)]
    assert query(database, "SELECT count(*) FROM rollup_repairs") == [(0,)]


async def test_who_takes_over_goes_on_where_the_last_one_was(store: Store, roller: Roller, database: Database) -> None:
    await roller.catch_up(5 * MINUTE)
    async with open_pool(DatabaseSettings.model_validate({"url": database.daemon})) as pool:
        second = RollupTable(pool, "second")
        assert await second.take_over() == NOW + 4 * MINUTE
        with pytest.raises(RollerDeposed):
            await roller.table.roll(NOW, NOW + HOUR)
        with pytest.raises(RollerDeposed):
            await roller.table.repair()
    assert query(database, "SELECT value FROM daemon_state WHERE key = %s", ROLLED_UNTIL) == [((NOW + 4 * MINUTE).isoformat(),)]


async def test_a_new_site_begins_now_and_an_old_one_with_its_first_reading(database: Database) -> None:
    async with store_on(database) as store, open_pool(DatabaseSettings.model_validate({"url": database.daemon})) as pool:
        table = RollupTable(pool, "x")
        assert await table.oldest() is None
        await store.store({"recorded_at": at(0), "temperature": 1})
        assert await table.oldest() == datetime(NOW.year, NOW.month, NOW.day, tzinfo=UTC)


async def test_old_buckets_are_deleted_in_pieces(store: Store, roller: Roller, database: Database) -> None:
    await store.store(*({"recorded_at": at(60 * s), "temperature": 1} for s in range(5)), received=300)
    await roller.catch_up(10 * MINUTE)
    assert [await delete_old_rollups(roller.pool, NOW + 3 * MINUTE, 2) for _ in range(3)] == [3, 1, 0]
    assert [row[1] for row in buckets(database, "readings_1m")] == [180, 240]


def test_hours_end_where_the_next_one_begins() -> None:
    assert (hour_end(NOW), hour_end(NOW + MINUTE)) == (NOW, NOW + HOUR)
