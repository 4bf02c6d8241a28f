"""The ledger of gaps on the real write path: what never came is there with the next message, and closed by the late one."""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import DatabaseSettings, IngestSettings
from ingest.sequences import MAX_GAPS
from mqtt.session import stored_publish
from storage.database import open_pool
from storage.devices import DeviceStore
from storage.leader import LeadershipLost
from storage.retention import delete_old_gaps
from tests.integration.conftest import Database
from tests.integration.writing import MANY, NOW, Store, query, store_on

LEDGER = """
    SELECT d.device_id, g.boot_id, g.first_seq, g.last_seq, g.missing::text,
        CASE WHEN g.closed_at IS NOT NULL THEN 'closed' WHEN g.lost_at IS NOT NULL THEN 'lost' ELSE 'open' END
    FROM sequence_gaps g JOIN devices d ON d.id = g.device_id ORDER BY g.id"""
OPEN = """
    SELECT coalesce(range_agg(r), '{}')::text FROM sequence_gaps, unnest(missing) AS r
    WHERE boot_id = %s AND closed_at IS NULL AND lost_at IS NULL"""
LIVE = "SELECT coalesce(range_agg(r), '{}')::text FROM device_sequences, unnest(missing) AS r WHERE boot_id = %s"
Entry = tuple[int, int, str, str]


def ledger(database: Database, device: str = "press-1", boot: str = "b") -> list[Entry]:
    """The first and last number of each gap, what is missing of it, and its state; in the order of being noticed."""
    return [row[2:] for row in query(database, LEDGER) if row[:2] == (device, boot)]


def numbered(*seqs: int, boot: str | None = "b") -> list[dict[str, Any]]:
    return [{"temperature": seq % 100, "seq": seq, **({"boot_id": boot} if boot else {})} for seq in seqs]


async def test_what_is_lost_is_known_within_one_message(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(1))
        assert ledger(database) == []
        await store.store(*numbered(5))
        assert ledger(database) == [(2, 4, "{[2,5)}", "open")]
        await store.store(*numbered(3))
        assert ledger(database) == [(2, 4, "{[2,3),[4,5)}", "open")]
        await store.store(*numbered(2, 4))
        assert ledger(database) == [(2, 4, "{}", "closed")]
        ((noticed, closed),) = query(database, "SELECT noticed_at, closed_at FROM sequence_gaps")
        assert noticed < closed
        await store.store(*numbered(2, 3, 4, 5, 6))
        assert ledger(database) == [(2, 4, "{}", "closed")], "what comes twice changes nothing"


async def test_a_batch_may_notice_and_fill_many(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(10, 20, 15, 13, 14), *numbered(7, 9, 8, boot="c"))
        store.batch(*numbered(1, 4), device="lathe")
        await store.store(*numbered(11, 12, 16, 17, 22, 25, 24))
        assert ledger(database) == [
            (11, 12, "{}", "closed"),
            (16, 19, "{[18,20)}", "open"),
            (21, 21, "{[21,22)}", "open"),
            (23, 23, "{[23,24)}", "open"),
        ]
        assert ledger(database, "lathe") == [(2, 3, "{[2,4)}", "open")]
        assert ledger(database, boot="c") == [], "what closes before it is stored was never missing"


@pytest.mark.parametrize("count", [1, MANY])
async def test_on_every_way_into_the_table(count: int, database: Database) -> None:
    """COPY, the pipeline, and the careful way of a batch that holds what cannot fit."""
    query(database, "ALTER TABLE sensor_readings ADD CONSTRAINT sane CHECK (temperature < 1000)")
    async with store_on(database) as store:
        await store.store(*numbered(*range(count)))
        await store.store(*numbered(*range(count + 1, 2 * count + 1)))
        await store.store({"temperature": 2000, "seq": 2 * count + 2, "boot_id": "b"})
        assert ledger(database) == [
            (count, count, f"{{[{count},{count + 1})}}", "open"),
            (2 * count + 1, 2 * count + 1, f"{{[{2 * count + 1},{2 * count + 2})}}", "open"),
        ]


async def test_a_restart_of_the_daemon_forgets_no_gap(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(1, 5))
    async with store_on(database) as store:
        await store.store(*numbered(6))
        await store.store(*numbered(3, 8))
        assert ledger(database) == [(2, 4, "{[2,3),[4,5)}", "open"), (7, 7, "{[7,8)}", "open")]


async def test_a_batch_that_is_tried_again_is_told_once(database: Database) -> None:
    async with store_on(database, options=IngestSettings(batch_max_messages=1)) as store:
        await store.store(*numbered(1))
        for seq in (4, 2, 6):
            store.batch(*numbered(seq))
        batch = store.intake.waiting[0]
        query(database, "ALTER TABLE device_sequences ADD CONSTRAINT away CHECK (false) NOT VALID")
        for _ in range(2):
            with pytest.raises(psycopg.errors.CheckViolation):
                await store.writer.commit(batch)
            await store.connection.rollback()
            assert ledger(database) == []
        query(database, "ALTER TABLE device_sequences DROP CONSTRAINT away")
        await store.commit()
        assert ledger(database) == [(2, 3, "{[2,4)}", "open")], "as of its batch, whatever waits behind it"
        await store.commit()
        await store.commit()
        assert ledger(database) == [(2, 3, "{[3,4)}", "open"), (5, 5, "{[5,6)}", "open")]


async def test_numbers_before_the_first(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(10))
        await store.store(*numbered(6))
        assert ledger(database) == [(7, 9, "{[7,10)}", "open")]
        await store.store(*numbered(4, 8))
        assert ledger(database) == [(7, 9, "{[7,8),[9,10)}", "open"), (5, 5, "{[5,6)}", "open")]


async def test_a_boot_that_was_forgotten_leaves_its_gaps_open_until_they_are_filled(database: Database) -> None:
    """What fills a gap that the ledger no longer knows closes no other one."""
    async with store_on(database) as store:
        await store.store(*numbered(1, 4))
        query(database, "DELETE FROM device_sequences")
    async with store_on(database) as store:
        await store.store(*numbered(10, 13, 16))
        query(database, "DELETE FROM sequence_gaps WHERE first_seq = 11")
        await store.store(*numbered(11, 14))
        assert ledger(database) == [(2, 3, "{[2,4)}", "open"), (14, 15, "{[15,16)}", "open")]


async def test_a_leap_over_everything(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(0, 2**63 - 1))
        await store.store(*numbered(2**63 - 2, 1))
        assert ledger(database) == [(1, 2**63 - 2, f"{{[2,{2**63 - 2})}}", "open")]


class TestWithoutBoot:
    """A step back to 0 or 1 is another run: nothing that it sends can fill a gap of the one before."""

    async def test_gaps_of_the_run_before_are_lost(self, database: Database) -> None:
        async with store_on(database) as store:
            await store.store(*numbered(1, 4, 6, boot=None))
            await store.store(*numbered(3, 0, 1, 2, boot=None))
            assert ledger(database, boot="") == [(2, 3, "{[2,3)}", "lost"), (5, 5, "{[5,6)}", "lost")]
            await store.store(*numbered(3, 6, boot=None))
            await store.store(*numbered(5, boot=None))
            assert ledger(database, boot="")[2:] == [(4, 5, "{[4,5)}", "open")]
            await store.store(*numbered(4, boot=None))
            assert [entry[3] for entry in ledger(database, boot="")] == ["lost", "lost", "closed"]

    async def test_runs_that_end_within_a_batch(self, database: Database) -> None:
        async with store_on(database) as store:
            await store.store(*numbered(5, 9, boot=None))
            await store.store(*numbered(7, 11, 0, 3, 2, 0, 4, boot=None))
            assert ledger(database, boot="") == [
                (6, 8, "{[6,7),[8,9)}", "lost"),
                (10, 10, "{[10,11)}", "lost"),
                (1, 1, "{[1,2)}", "lost"),
                (1, 3, "{[1,4)}", "open"),
            ]

    async def test_a_stream_that_was_forgotten(self, database: Database) -> None:
        """A device that was silent for longer than sequences are kept."""
        async with store_on(database) as store:
            await store.store(*numbered(5, 9, boot=None))
            query(database, "DELETE FROM device_sequences")
        async with store_on(database) as store:
            await store.store(*numbered(3, 6, boot=None))
            await store.store(*numbered(5, boot=None))
            assert ledger(database, boot="") == [(6, 8, "{[6,9)}", "lost"), (4, 5, "{[4,5)}", "open")]


async def test_more_gaps_than_a_stream_keeps(database: Database) -> None:
    """Two gaps that became one in the stream stay two in the ledger, and one that was closed between them stays closed."""
    async with store_on(database) as store:
        await store.store(*numbered(*range(0, 2 * MAX_GAPS + 2, 2)))
        await store.store(*numbered(3))
        await store.store(*numbered(2 * MAX_GAPS + 2, 2 * MAX_GAPS + 4))
        assert store.registry.by_name["press-1"].streams["b"].missing[:2] == [(1, 6), (7, 8)]
        await store.store(*numbered(7, 2))
        entries = ledger(database)
        assert [(first, state) for first, _, _, state in entries[:5]] == [
            (1, "open"),
            (3, "closed"),
            (5, "open"),
            (7, "closed"),
            (9, "open"),
        ]
        assert len(entries) == MAX_GAPS + 2
        assert {first == last for first, last, _, _ in entries} == {True}
        assert {state for _, _, _, state in entries[4:]} == {"open"}


async def test_one_gap_in_more_pieces_than_a_stream_keeps(database: Database) -> None:
    """The row of a gap does not grow with each number that fills it."""
    async with store_on(database) as store:
        await store.store(*numbered(0, 10_000))
        await store.store(*numbered(*range(2, 5_000, 2)))
        ((first, last, _, state),) = ledger(database)
        assert (first, last, state) == (1, 9_999, "open")
        assert query(database, "SELECT count(*) FROM sequence_gaps, unnest(missing)") == [(MAX_GAPS,)]


async def test_a_replay_closes_what_its_message_had_left_open(database: Database) -> None:
    """A malformed message has no readable number; mended and replayed, it is there."""
    async with store_on(database) as store:
        await store.store(*numbered(1), b'{"temperature": 2, "seq": 2, "boot_id": ', *numbered(3))
        assert ledger(database) == [(2, 2, "{[2,3)}", "open")]
        (number,) = query(database, "SELECT id FROM quarantine")[0]
        payload = b'{"temperature": 2, "seq": 2, "boot_id": "b"}'
        for _ in range(2):
            store.intake.replay(stored_publish("factory/devices/press-1/telemetry", payload, None, 1), NOW, number)
            await store.commit()
            assert ledger(database) == [(2, 2, "{}", "closed")]


async def test_a_device_that_was_deleted_does_not_stop_its_neighbours(database: Database) -> None:
    async with store_on(database) as store:
        query(database, "DELETE FROM devices WHERE device_id = 'lathe'")
        store.batch(*numbered(1, 3), device="lathe")
        await store.store(*numbered(1, 3))
        assert ledger(database) == [(2, 2, "{[2,3)}", "open")]
        assert ledger(database, "lathe") == []


async def test_a_stranger_is_told_once(database: Database) -> None:
    """Its messages are decoded when their batch is closed already."""
    async with store_on(database) as store:
        store.batch(*numbered(1, 4, 2), device="new")
        query(database, "INSERT INTO devices (device_id, name, type, location) VALUES ('new', 'x', 'sensor', 'x')")
        batch = store.intake.waiting[0]
        batch.close()
        async with open_pool(DatabaseSettings.model_validate({"url": database.daemon})) as pool:
            store.registry.load(await DeviceStore(pool).find(["new"]))
        store.intake.retake_strangers(batch)
        await store.commit()
        await store.store(*numbered(6), device="new")
        assert ledger(database, "new") == [(3, 3, "{[3,4)}", "open"), (5, 5, "{[5,6)}", "open")]


async def test_a_batch_without_gaps_writes_nothing_to_the_ledger(database: Database) -> None:
    query(database, "REVOKE ALL ON sequence_gaps FROM factoryd_daemon")
    async with store_on(database) as store:
        for number in range(3):
            await store.store(*numbered(2 * number, 2 * number + 1))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await store.store(*numbered(10))
        await store.connection.rollback()


async def test_old_gaps_are_forgotten(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(1, 3, 5, 7, 9))
        await store.store(*numbered(2))
        query(database, "UPDATE sequence_gaps SET noticed_at = %s WHERE first_seq < 8", NOW - timedelta(days=2))
        async with open_pool(DatabaseSettings.model_validate({"url": database.daemon})) as pool:
            assert [await delete_old_gaps(pool, NOW - timedelta(days=1), 2) for _ in range(3)] == [2, 1, 0]
        await store.store(*numbered(4))
        assert ledger(database) == [(8, 8, "{[8,9)}", "open")]


async def test_the_database_goes_away(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(*numbered(1))
        store.batch(*numbered(3))
        query(database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'factoryd_daemon'")
        with pytest.raises(LeadershipLost):
            await store.commit()
    async with store_on(database) as store:
        assert ledger(database) == []
        await store.store(*numbered(3))
        assert ledger(database) == [(2, 2, "{[2,3)}", "open")]


batches = st.lists(st.none() | st.lists(st.integers(0, 25), min_size=1, max_size=8), min_size=1, max_size=8)


def test_in_whatever_order_they_come_the_ledger_knows_what_is_missing(database: Database) -> None:
    """None is another start of the daemon."""

    @settings(derandomize=True, deadline=None, max_examples=40, database=None)
    @given(batches)
    def arrivals(batches: list[list[int] | None]) -> None:
        query(database, "DELETE FROM sequence_gaps; DELETE FROM device_sequences")
        asyncio.run(stored(batches))

    async def stored(batches: list[list[int] | None]) -> None:
        lives: list[list[list[int]]] = [[]]
        for batch in batches:
            if batch is None:
                lives.append([])
            else:
                lives[-1].append(batch)
        for life in lives:
            async with store_on(database) as store:
                for batch in life:
                    await compared(store, batch)

    async def compared(store: Store, batch: list[int]) -> None:
        await store.store(*numbered(*batch))
        ((known,),), ((live,),) = query(database, OPEN, "b"), query(database, LIVE, "b")
        assert known == live
        overlaps = "SELECT count(*) FROM sequence_gaps a JOIN sequence_gaps b ON a.id < b.id AND a.missing && b.missing"
        assert query(database, overlaps) == [(0,)]

    arrivals()
