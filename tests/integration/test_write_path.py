"""The writer on real PostgreSQL: what becomes of each reading, of what belongs to it, and of what can never fit."""

import random
from datetime import timedelta
from typing import Any

import pytest

from ingest.batch import Batch
from ingest.flood import Refusals
from ingest.merging import merged
from ingest.reading import METRICS, Reading
from storage.readings import SMALL_BATCH
from storage.state import may_skip_key_check
from storage.upsert import COLUMNS, Upserted, upsert_readings
from tests.integration.conftest import Database
from tests.integration.writing import MANY, NOW, at, query, readings, store_on, verdicts

# Paths


@pytest.mark.parametrize("skip_key_check", [True, False])
@pytest.mark.parametrize("count", [1, SMALL_BATCH, SMALL_BATCH + 1, 500])
async def test_new_readings(database: Database, count: int, skip_key_check: bool) -> None:
    async with store_on(database, skip_key_check=skip_key_check) as store:
        assert verdicts(await store.store(*readings(count, -1000, oil=0.5, door=True))) == (count, 0, 0, 0)
        expected = [{"at": n - 1000.0, "temperature": n, "oil": 0.5, "door": True} for n in range(count)]
        assert store.rows() == expected
        assert store.latest() == expected[-1]


async def test_the_grant_is_noticed(database: Database) -> None:
    async with store_on(database) as store:
        assert await may_skip_key_check(store.connection)
        try:
            query(database, "REVOKE SET ON PARAMETER session_replication_role FROM factoryd_daemon")
            assert not await may_skip_key_check(store.connection)
        finally:
            query(database, "GRANT SET ON PARAMETER session_replication_role TO factoryd_daemon")


async def test_the_role_is_itself_again_after_the_copy(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*readings(MANY))
        cursor = await store.connection.execute("SHOW session_replication_role")
        assert await cursor.fetchone() == ("origin",)


async def test_several_devices_in_one_batch(database: Database) -> None:
    async with store_on(database) as store:
        for device in ("lathe", "press-2", "press-1"):
            store.batch(*readings(MANY), device=device)
        assert verdicts(await store.commit()) == (3 * MANY, 0, 0, 0)
        assert [row[0] for row in query(database, "SELECT count(*) FROM sensor_readings GROUP BY device_id")] == [MANY] * 3


async def test_all_columns_and_extremes(database: Database) -> None:
    values = dict(zip(METRICS, (1.7976931348623157e308, 5e-324, -0.0, 0.1, 1e23, 2.5), strict=True))
    extra = {
        "big": 1e23,
        "bigger": 10**25,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "count": 2**64,
        "zero": -0.0,
        "no": False,
    }
    async with store_on(database) as store:
        first = {"recorded_at": at(0), **values, **extra}
        assert verdicts(await store.store(first)) == (1, 0, 0, 0)
        assert verdicts(await store.store(first)) == (0, 0, 1, 0)
        (row,) = store.rows()
        assert {name: (type(value) is bool, float(value)) for name, value in row.items()} == {
            name: (type(value) is bool, float(value)) for name, value in {"at": 0, **values, **extra}.items()
        }
        # The same by the upsert: older than the newest.
        assert verdicts(await store.store({**first, "recorded_at": at(-1)})) == (1, 0, 0, 0)
        assert verdicts(await store.store({**first, "recorded_at": at(-1)})) == (0, 0, 1, 0)
        assert verdicts(await store.store({"recorded_at": at(-1), "big": 1e23, "new": 1})) == (0, 1, 0, 0)


# Verdicts


async def test_stored_merged_duplicate_conflict(database: Database) -> None:
    async with store_on(database) as store:
        assert verdicts(await store.store({"recorded_at": at(0), "temperature": 1, "oil": 5})) == (1, 0, 0, 0)
        assert verdicts(await store.store({"recorded_at": at(0), "temperature": 1, "oil": 5})) == (0, 0, 1, 0)
        assert verdicts(await store.store({"recorded_at": at(0), "oil": 5.0})) == (0, 0, 1, 0)
        assert verdicts(await store.store({"recorded_at": at(0), "rpm": 7, "load": 1})) == (0, 1, 0, 0)
        assert verdicts(await store.store({"recorded_at": at(0), "temperature": 1, "humidity": 2})) == (0, 1, 0, 0)
        conflict = b'{"recorded_at": "%s", "temperature": 9, "pressure": 3}' % at(0).encode()
        assert verdicts(await store.store(conflict)) == (0, 0, 0, 1)
        assert verdicts(await store.store({"recorded_at": at(0), "oil": 6, "pressure": 3})) == (0, 0, 0, 1)
        assert verdicts(await store.store({"recorded_at": at(-60), "temperature": 4})) == (1, 0, 0, 0)
        expected = {"at": 0.0, "temperature": 1, "humidity": 2, "rpm": 7, "oil": 5, "load": 1}
        assert store.rows() == [{"at": -60.0, "temperature": 4}, expected]
        assert store.latest() == expected, "a refused reading leaves no value in device_latest"
        assert store.quarantined()[0] == ("press-1", "conflict", conflict)
        assert [reason for _, reason, _ in store.quarantined()] == ["conflict"] * 2


async def test_true_is_not_one(database: Database) -> None:
    async with store_on(database) as store:
        await store.store({"recorded_at": at(0), "door": True})
        assert verdicts(await store.store({"recorded_at": at(0), "door": 1})) == (0, 0, 0, 1)


@pytest.mark.parametrize("more", [0, MANY])
async def test_repetitions_inside_one_batch(database: Database, more: int) -> None:
    """A message and its repetition in the same batch: no row by row way for so common a thing."""
    async with store_on(database) as store:
        one = {"recorded_at": at(0), "temperature": 1}
        store.batch(*readings(more, -1000), one, one, {"recorded_at": at(0), "rpm": 5})
        store.batch({"recorded_at": at(0), "temperature": 9}, [one, {"recorded_at": at(1), "humidity": 3}])
        store.writer._commit_carefully = unwanted  # type: ignore[method-assign]
        stored, merged, duplicate, refused = verdicts(await store.commit())
        assert (stored, merged + duplicate, refused) == (more + 2, 3, 1)
        assert store.rows()[-2:] == [{"at": 0.0, "temperature": 1, "rpm": 5}, {"at": 1.0, "humidity": 3}]
        assert store.latest() == {"at": 1.0, "temperature": 1, "rpm": 5, "humidity": 3}


async def unwanted(batch: Batch, refused: Refusals) -> Any:
    raise AssertionError(f"the careful way was taken for {batch.readings} readings")


async def test_a_contradiction_does_not_take_its_neighbours_along(database: Database) -> None:
    """Three readings of one moment in one batch, the first of which contradicts what is stored."""
    async with store_on(database) as store:
        await store.store({"recorded_at": at(0), "temperature": 1})
        store.batch({"recorded_at": at(0), "temperature": 9, "humidity": 2}, {"recorded_at": at(0), "rpm": 5})
        store.batch({"recorded_at": at(0), "temperature": 1}, {"recorded_at": at(0), "humidity": 3, "oil": 1})
        assert verdicts(await store.commit()) == (0, 2, 1, 1)
        assert store.rows() == [{"at": 0.0, "temperature": 1, "rpm": 5, "humidity": 3, "oil": 1}]
        assert store.latest() == {"at": 0.0, "temperature": 1, "rpm": 5, "humidity": 3, "oil": 1}


async def test_a_repetition_of_a_stored_reading_and_more(database: Database) -> None:
    async with store_on(database) as store:
        await store.store({"recorded_at": at(0), "temperature": 1, "rpm": 5})
        one = {"recorded_at": at(0), "temperature": 1}
        assert verdicts(await store.store(one, {"recorded_at": at(0), "rpm": 5}, one)) == (0, 0, 3, 0)


async def test_a_conflict_keeps_the_bytes_of_just_its_reading(database: Database) -> None:
    async with store_on(database) as store:
        await store.store({"recorded_at": at(0), "temperature": 1})
        second = b'{"recorded_at":"%s" , "temperature":2}' % at(0).encode()
        assert verdicts(await store.store(b'[{"temperature":5},' + second + b"]", received=5)) == (1, 0, 0, 1)
        assert store.quarantined() == [("press-1", "conflict", second)]


async def test_the_statement_and_the_rule_agree(database: Database) -> None:
    """storage.upsert in SQL against ingest.merging in Python."""
    chance, nothing = random.Random(5), (None, None, 0.0, 1.0, 2.5)
    async with store_on(database) as store:
        device = store.registry.by_name["press-1"].id

        def some(place: int) -> Reading:
            values = [chance.choice(nothing) for _ in METRICS]
            extra = {name: chance.choice([0, 1, 1.0, 1e23, 10**23, True, False]) for name in "ab" if chance.random() < 0.4}
            moment = NOW - timedelta(seconds=place)
            return Reading._make((device, *values, moment, NOW, extra or None))

        first, second = [some(n) for n in range(1500)], [some(n) for n in range(1500)]
        assert await upsert_readings(store.connection, first) == Upserted(stored=1500, told=set(range(1500)))
        outcome = await upsert_readings(store.connection, second)
        both = [merged(one, other) for one, other in zip(first, second, strict=True)]
        assert outcome.conflicts == [n for n, row in enumerate(both) if row is None]
        assert outcome.duplicate == sum(row == one for row, one in zip(both, first, strict=True))
        assert outcome.merged == 1500 - len(outcome.conflicts) - outcome.duplicate
        assert outcome.stored == 0
        assert outcome.told == {n for n, row in enumerate(both) if row is not None and row != first[n]}
        stored = await store.connection.execute(f"SELECT {', '.join(COLUMNS)} FROM sensor_readings ORDER BY recorded_at DESC")
        expected = [row or one for row, one in zip(both, first, strict=True)]
        for found, wanted in zip(await stored.fetchall(), expected, strict=True):
            assert merged(wanted, Reading._make(found)) == wanted
            assert len(found[9] or {}) == len(wanted.extra or {})
