"""Partitions are made beside running readers and writers, and every interrupted step is healed by the next run."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from storage import partitions
from storage.maintenance import SchemaError
from storage.partitions import PARTITION_NAMES_SQL, PartitionsBlocked, ensure_partitions, partition_days_ahead, partition_name
from tests.integration.conftest import TODAY, Database

NEXT = TODAY + timedelta(days=4)  # the template has TODAY ± 3
INSERT = "INSERT INTO sensor_readings (device_id, recorded_at, temperature) SELECT id, %s, 1 FROM devices"


def at(day: date, hour: int = 12, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


@contextmanager
def session(url: str, *, autocommit: bool = True) -> Iterator[psycopg.Connection]:
    """Nothing in these tests may wait long for a lock."""
    with psycopg.connect(url, autocommit=autocommit, options="-c statement_timeout=2s") as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def daemon(database: Database) -> Iterator[psycopg.Connection]:
    with session(database.daemon) as connection:
        connection.execute("INSERT INTO devices (device_id, name, type, location) VALUES ('p1', 'P', 'sensor', 'hall')")
        yield connection


def names(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(PARTITION_NAMES_SQL)]


def test_makes_what_is_missing_and_nothing_twice(database: Database, daemon: psycopg.Connection) -> None:
    assert ensure_partitions(database.owner, 5, 7, TODAY) == [
        partition_name(TODAY + timedelta(days=day)) for day in (-5, -4, 4, 5, 6, 7)
    ]
    assert ensure_partitions(database.owner, 5, 7, TODAY) == []
    assert partition_days_ahead(names(daemon), TODAY) == 7


def test_days_are_utc_whatever_the_servers_time_zone(database: Database, daemon: psycopg.Connection) -> None:
    with session(database.admin) as admin:
        admin.execute(f"ALTER DATABASE {database.name} SET timezone = 'Pacific/Auckland'".encode())
    ensure_partitions(database.owner, 0, 4, TODAY)
    for moment, day in ((at(NEXT, 0), NEXT), (at(NEXT, 23, 59), NEXT)):
        row = daemon.execute(f"{INSERT} RETURNING tableoid::regclass::text".encode(), [moment]).fetchone()
        assert row == (partition_name(day),)
    with pytest.raises(errors.CheckViolation, match="no partition of relation"):
        daemon.execute(INSERT, [at(NEXT + timedelta(days=1), 0)])


def test_ids_are_numbered_across_partitions_by_insert_and_copy(database: Database, daemon: psycopg.Connection) -> None:
    ensure_partitions(database.owner, 0, 4, TODAY)
    daemon.execute(INSERT, [at(TODAY)])
    with daemon.cursor().copy("COPY sensor_readings (device_id, recorded_at) FROM STDIN") as copy:
        for minute in range(3):
            copy.write_row((1, at(NEXT, 1, minute)))
    daemon.execute(INSERT, [at(NEXT)])
    rows = daemon.execute("SELECT id FROM sensor_readings").fetchall()
    assert len(set(rows)) == 5
    assert all(number is not None for (number,) in rows)


def test_a_partition_has_the_parents_key_index_and_foreign_key(database: Database, daemon: psycopg.Connection) -> None:
    ensure_partitions(database.owner, 0, 4, TODAY)
    daemon.execute(INSERT, [at(NEXT)])
    with pytest.raises(errors.UniqueViolation):
        daemon.execute(INSERT, [at(NEXT)])
    with pytest.raises(errors.ForeignKeyViolation):
        daemon.execute("INSERT INTO sensor_readings (device_id, recorded_at) VALUES (999, %s)", [at(NEXT)])
    query = "SELECT indexdef FROM pg_indexes WHERE tablename = %s"
    indexes = [definition for (definition,) in daemon.execute(query, [partition_name(NEXT)])]
    assert len(indexes) == 2
    assert any("btree (device_id, recorded_at)" in definition for definition in indexes)
    assert any("brin (recorded_at) WITH (pages_per_range='32')" in definition for definition in indexes)


def test_a_long_reader_or_writer_blocks_neither_partitions_nor_writers(database: Database, daemon: psycopg.Connection) -> None:
    with session(database.tools, autocommit=False) as reader, session(database.daemon, autocommit=False) as writer:
        writer.execute(INSERT, [at(TODAY)])
        reader.execute("SELECT count(*) FROM sensor_readings JOIN devices ON devices.id = sensor_readings.device_id")
        started = time.monotonic()
        assert ensure_partitions(database.owner, 0, 4, TODAY) == [partition_name(NEXT)]
        daemon.execute(INSERT, [at(NEXT)])
        assert time.monotonic() - started < 1, "nobody waited for a lock"


def test_the_writer_of_readings_passes_while_partitions_wait(
    database: Database, daemon: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_S", 10)
    with ThreadPoolExecutor(1) as pool, session(database.daemon, autocommit=False) as presence:
        presence.execute("UPDATE devices SET last_seen = now()")
        making = pool.submit(ensure_partitions, database.owner, 0, 4, TODAY)
        wait_until_blocked(database)
        with daemon.transaction():
            daemon.execute("SELECT FROM devices FOR KEY SHARE")
            daemon.execute(INSERT, [at(TODAY)])
        assert not making.done()
        presence.rollback()
        assert making.result() == [partition_name(NEXT)]


def test_a_time_out_leaves_nothing_and_the_next_run_heals(
    database: Database, daemon: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_S", 0.02)
    monkeypatch.setattr(partitions, "RETRY_PAUSE_S", 0)
    before = names(daemon)
    with session(database.daemon, autocommit=False) as presence:
        presence.execute("UPDATE devices SET last_seen = now()")
        with pytest.raises(PartitionsBlocked, match=f"partition {partition_name(NEXT)} was not made: .* 5 times: end the"):
            ensure_partitions(database.owner, 0, 4, TODAY)
    assert names(daemon) == before
    assert daemon.execute("SELECT to_regclass(%s)", [partition_name(NEXT)]).fetchone() == (None,)
    assert ensure_partitions(database.owner, 0, 4, TODAY) == [partition_name(NEXT)]


class TestLeftovers:
    def test_a_detached_partition_is_attached_with_its_rows(self, database: Database, daemon: psycopg.Connection) -> None:
        daemon.execute(INSERT, [at(TODAY)])
        with session(database.owner) as owner:
            owner.execute(
                f"ALTER TABLE sensor_readings DETACH PARTITION {partition_name(TODAY)} CONCURRENTLY".encode(), prepare=False
            )
            assert ensure_partitions(database.owner, 0, 3, TODAY) == [partition_name(TODAY)]
            checks = owner.execute("SELECT count(*) FROM pg_constraint WHERE conname = 'partition_bounds'").fetchone()
        assert daemon.execute("SELECT count(*) FROM sensor_readings").fetchone() == (1,)
        assert checks == (0,)

    def test_an_unattached_table_is_attached(self, database: Database, daemon: psycopg.Connection) -> None:
        with session(database.owner) as owner:
            owner.execute(f"CREATE TABLE {partition_name(NEXT)} (LIKE sensor_readings)".encode())
        assert ensure_partitions(database.owner, 0, 4, TODAY) == [partition_name(NEXT)]
        daemon.execute(INSERT, [at(NEXT)])

    @pytest.mark.parametrize("columns", ["(mine text)", "AS SELECT * FROM sensor_readings"])
    def test_a_table_that_does_not_fit_is_named(self, columns: str, database: Database, daemon: psycopg.Connection) -> None:
        daemon.execute(INSERT, [at(TODAY)])
        with session(database.owner) as owner:
            owner.execute(f"CREATE TABLE {partition_name(NEXT)} {columns}".encode())
        with pytest.raises(SchemaError, match=r"could not be made: .*rename or drop"):
            ensure_partitions(database.owner, 0, 4, TODAY)
        assert partition_name(NEXT) not in names(daemon)


def test_two_at_once_share_the_work(database: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: ensure_partitions(database.owner, 20, 20, TODAY), range(2)))
    assert sorted(made[0] + made[1]) == sorted(
        partition_name(TODAY + timedelta(days=day)) for day in range(-20, 21) if abs(day) > 3
    )


def test_the_daemon_role_is_refused(database: Database) -> None:
    with pytest.raises(SchemaError, match="use the owner's URL"):
        ensure_partitions(database.daemon, 0, 4, TODAY)


def test_an_empty_database_is_named(empty_database: Database) -> None:
    with pytest.raises(SchemaError, match="run factoryd migrate"):
        ensure_partitions(empty_database.owner, 0, 1, TODAY)


def wait_until_blocked(database: Database) -> None:
    query = "SELECT FROM pg_stat_activity WHERE application_name = 'factoryd-maintenance' AND wait_event_type = 'Lock'"
    with session(database.admin) as observer:
        while observer.execute(query).fetchone() is None:
            time.sleep(0.01)
