"""The writer on real PostgreSQL when a row can never fit, or nothing can be written: poison, kills, locks, restarts."""

from datetime import timedelta

import psycopg
import pytest

from storage.database import DatabaseUnavailable
from storage.leader import LeadershipLost
from storage.partitions import PARTITION_NAMES_SQL, ensure_partitions, partition_name
from tests.integration.conftest import TODAY, Database
from tests.integration.writing import MANY, at, query, readings, store_on, verdicts

# Poison


@pytest.mark.parametrize("count", [3, MANY])
async def test_the_device_row_is_gone(database: Database, count: int) -> None:
    async with store_on(database) as store:
        query(database, "DELETE FROM devices WHERE device_id = 'lathe'")
        store.batch(*({**reading, "seq": n, "boot_id": "b"} for n, reading in enumerate(readings(count))), device="press-1")
        store.batch({"temperature": 5, "seq": 1}, {"temperature": 6, "seq": 2}, device="lathe")
        assert verdicts(await store.commit()) == (count, 0, 0, 2)
        assert {(device, reason) for device, reason, _ in store.quarantined()} == {("lathe", "unknown_device")}
        assert store.latest()["at"] == count - 1


async def test_the_device_row_is_gone_and_nothing_else_is_in_the_batch(database: Database) -> None:
    async with store_on(database) as store:
        await store.store({"temperature": 5, "seq": 1, "boot_id": "b"}, device="lathe")
        query(
            database, "DELETE FROM device_sequences; DELETE FROM sensor_readings; DELETE FROM devices WHERE device_id = 'lathe'"
        )
        assert verdicts(await store.store({"temperature": 5, "seq": 1, "boot_id": "b"}, device="lathe")) == (0, 0, 1, 0)


@pytest.mark.parametrize("count", [3, MANY])
async def test_a_day_past_its_time_has_no_partition(database: Database, count: int) -> None:
    """A replay from a day whose partition is dropped: the row is refused, its neighbours are not."""
    async with store_on(database) as store:
        old = {"recorded_at": at(-30 * 86400), "temperature": 1}
        store.batch([*readings(count), old])
        assert verdicts(await store.commit()) == (count, 0, 0, 1)
        ((device, reason, payload),) = store.quarantined()
        assert (device, reason) == ("press-1", "no_partition")
        assert b'"temperature": 1}' in payload
        assert not payload.startswith(b"[")
        assert not store.missing.is_set()


@pytest.mark.parametrize("count", [3, MANY])
async def test_a_day_that_should_have_a_partition_is_waited_for(database: Database, count: int) -> None:
    """Our fault is not the reading's: nothing is refused, and the same batch is stored once the partition is there."""
    async with store_on(database) as store:
        (today,) = [name for (name,) in query(database, PARTITION_NAMES_SQL) if name == partition_name(TODAY)]
        query(database, f"ALTER TABLE sensor_readings DETACH PARTITION {today}")
        query(database, f"ALTER TABLE {today} RENAME TO elsewhere")
        batch = store.batch(*readings(count))
        with pytest.raises(DatabaseUnavailable, match=f"readings of {TODAY} have no partition"):
            await store.writer.commit(batch)
        assert store.missing.is_set()
        assert store.quarantined() == []
        ensure_partitions(database.owner, 3, 3, TODAY)
        assert verdicts(await store.writer.commit(batch)) == (count, 0, 0, 0)


@pytest.mark.parametrize("count", [3, MANY])
async def test_rows_that_the_table_refuses(database: Database, count: int) -> None:
    async with store_on(database) as store:
        query(database, "ALTER TABLE sensor_readings ADD CONSTRAINT sane CHECK (temperature < 1000)")
        bad = [{"recorded_at": at(MANY + n), "temperature": 2000} for n in range(3)]
        store.batch(*readings(count), *bad, {"recorded_at": at(MANY + 10), "rpm": 1})
        assert verdicts(await store.commit()) == (count + 1, 0, 0, 3)
        assert {reason for _, reason, _ in store.quarantined()} == {"refused"}
        assert store.latest() == {"at": MANY + 10.0, "temperature": count - 1, "rpm": 1}
        # The next ones are stored as if nothing had been.
        assert verdicts(await store.store({"recorded_at": at(MANY + 11), "rpm": 2})) == (1, 0, 0, 0)


async def test_everything_is_refused(database: Database) -> None:
    async with store_on(database) as store:
        query(database, "ALTER TABLE sensor_readings ADD CONSTRAINT never CHECK (false) NOT VALID")
        assert verdicts(await store.store(*readings(5))) == (0, 0, 0, 5)
        assert query(database, "SELECT count(*) FROM device_latest") == [(0,)]


# Errors that are nobody's fault


async def test_the_connection_is_killed(database: Database) -> None:
    async with store_on(database) as store:
        batch = store.batch(*readings(MANY), b"bad")
        query(database, "SELECT pg_terminate_backend(%s)", store.connection.info.backend_pid)
        with pytest.raises(LeadershipLost):
            await store.writer.commit(batch)
        with pytest.raises(LeadershipLost):
            await store.writer.ping()
        with pytest.raises(LeadershipLost):
            await store.writer.commit(batch)
    async with store_on(database) as other:
        other.writer._registry = store.registry
        assert verdicts(await other.writer.commit(batch)) == (MANY, 0, 0, 1)


@pytest.mark.parametrize("count", [3, MANY])
async def test_a_lock_is_waited_for_and_tried_again(database: Database, count: int) -> None:
    async with store_on(database) as store:
        await store.store({"recorded_at": at(-1), "temperature": 0})
        await store.connection.execute("SET lock_timeout = '50ms'")
        batch = store.batch(*readings(count), b"bad", {"recorded_at": at(-1), "temperature": 9})
        with psycopg.connect(database.admin) as blocker:
            blocker.execute("SELECT FROM devices FOR UPDATE")
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    await store.writer.commit(batch)
            assert query(database, "SELECT count(*) FROM sensor_readings") == [(1,)]
            assert store.quarantined() == []
        assert verdicts(await store.writer.commit(batch)) == (count, 0, 0, 2)
        assert [reason for _, reason, _ in store.quarantined()] == ["malformed", "conflict"]


async def test_a_statement_that_takes_too_long(database: Database) -> None:
    async with store_on(database, statement_timeout_s=0.2) as store:
        batch = store.batch(*readings(3))
        with psycopg.connect(database.admin) as blocker:
            blocker.execute("LOCK TABLE sensor_readings")
            with pytest.raises(DatabaseUnavailable):
                await store.writer.commit(batch)
        assert verdicts(await store.writer.commit(batch)) == (3, 0, 0, 0)


async def test_a_read_only_server_is_waited_for(database: Database) -> None:
    async with store_on(database) as store:
        await store.connection.execute("SET default_transaction_read_only = on")
        batch = store.batch(*readings(MANY))
        with pytest.raises(DatabaseUnavailable):
            await store.writer.commit(batch)
        await store.connection.execute("SET default_transaction_read_only = off")
        assert verdicts(await store.writer.commit(batch)) == (MANY, 0, 0, 0)


async def test_a_reading_of_a_sealed_day_is_too_late(database: Database) -> None:
    """It was taken in time, and waited while its day was archived; its neighbours are stored."""
    async with store_on(database) as store:
        day = partition_name(TODAY - timedelta(days=1))
        query(database, f"ALTER TABLE {day} ADD CONSTRAINT factoryd_sealed CHECK (false) NOT VALID")
        committed = await store.store({"recorded_at": at(-86_400), "temperature": 1}, {"recorded_at": at(0), "temperature": 2})
        assert verdicts(committed) == (1, 0, 0, 1)
        assert [row[1] for row in store.quarantined()] == ["too_late"]
        many = [{"recorded_at": at(-86_400 + n), "temperature": n} for n in range(MANY)]
        assert verdicts(await store.store(*many, device="lathe")) == (0, 0, 0, MANY), "by COPY, too"
