"""Caches hear of every change of configuration, by any writer, at its commit; and of nothing else."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.conftest import Database

DEVICE = "INSERT INTO devices (device_id, name, type, location) VALUES (%s, 'Press', 'sensor', 'hall 2')"
CONFIGURATION = (
    "device_id = 'p2'",
    "name = 'x'",
    "type = 'gateway'",
    "location = 'x'",
    "user_id = 1",
    "metadata = '{}'",
    "via_id = id",
    "timezone = 'Europe/Berlin'",
    "interval_s = 5",
    "retired_at = now()",
)


class Listener:
    """Hears what a committed statement notified, and nothing that came before."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute("LISTEN factoryd_cache")

    def heard(self) -> list[str]:
        # A statement's answer carries every notification committed before it: no waiting is needed.
        self.connection.execute("SELECT 1")
        return [notice.payload for notice in self.connection.notifies(timeout=0)]

    def version(self, name: str) -> int:
        row = self.connection.execute("SELECT version FROM cache_versions WHERE name = %s", [name]).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def writer(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.daemon, autocommit=True) as connection:
        connection.execute(DEVICE, ["p1"])
        yield connection


@pytest.fixture
def listener(writer: psycopg.Connection, database: Database) -> Iterator[Listener]:
    listener = Listener(database.daemon)
    with listener.connection:
        yield listener


def test_ten_thousand_presence_writes_are_silent(writer: psycopg.Connection, listener: Listener) -> None:
    before = listener.version("devices")
    statement = """UPDATE devices SET last_seen = now(), status = %s, status_reason = 'x', status_session = 'y',
        reported_version = '1', clock = 'ahead', qos0_seen = true, name = name"""
    with writer.pipeline():
        for number in range(10_000):
            writer.execute(statement, ["online" if number % 2 else "offline"])
    assert listener.heard() == []
    assert listener.version("devices") == before


def test_each_configuration_column_of_a_device_is_heard(writer: psycopg.Connection, listener: Listener) -> None:
    before = listener.version("devices")
    for number, change in enumerate(CONFIGURATION, start=1):
        writer.execute(f"UPDATE devices SET {change}".encode())
        assert listener.heard() == [f"devices:{before + number}"], change
    assert listener.version("devices") == before + len(CONFIGURATION)


def test_new_and_deleted_rows_are_heard(database: Database, writer: psycopg.Connection, listener: Listener) -> None:
    writer.execute(DEVICE, ["p3"])
    with psycopg.connect(database.owner) as owner:
        owner.execute("DELETE FROM devices WHERE device_id = 'p3'")
    version = listener.version("devices")
    assert listener.heard() == [f"devices:{version - 1}", f"devices:{version}"]


def test_thresholds_users_and_accounts_have_their_own_caches(writer: psycopg.Connection, listener: Listener) -> None:
    writer.execute("UPDATE users SET role = 'operator' WHERE login = 'system'")
    writer.execute(
        """INSERT INTO alert_thresholds (device_id, user_id, metric_type, severity)
        SELECT devices.id, users.id, 'rpm', 'info' FROM devices, users"""
    )
    writer.execute("UPDATE alert_thresholds SET enabled = false")
    writer.execute("UPDATE alert_thresholds SET enabled = false")
    writer.execute("INSERT INTO device_credentials (device_id, secret_hash) SELECT id, '$7$' FROM devices")
    names = [payload.partition(":")[0] for payload in listener.heard()]
    assert names == ["users", "thresholds", "thresholds", "accounts"]


def test_one_transaction_is_one_notification(writer: psycopg.Connection, listener: Listener) -> None:
    before = listener.version("devices")
    with writer.transaction():
        writer.execute("INSERT INTO devices (device_id, name, type, location) SELECT n, n, n, n FROM generate_series(1, 99) n")
        writer.execute("UPDATE devices SET location = 'hall 3'")
    assert listener.heard() == [f"devices:{before + 1}"]


def test_what_is_rolled_back_is_not_heard_and_hides_nothing(writer: psycopg.Connection, listener: Listener) -> None:
    before = listener.version("devices")
    with writer.transaction():
        writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        writer.execute("SAVEPOINT here")
        writer.execute("UPDATE devices SET location = 'hall 3'")
        writer.execute("ROLLBACK TO SAVEPOINT here")
        writer.execute("UPDATE devices SET location = 'hall 4'")
    assert listener.heard() == [f"devices:{before + 1}"]


def test_an_open_transaction_does_not_hold_up_others(
    database: Database, writer: psycopg.Connection, listener: Listener
) -> None:
    with psycopg.connect(database.owner) as person:
        person.execute("UPDATE devices SET name = 'not yet committed'")
        writer.execute("SET lock_timeout = '1s'")
        writer.execute(DEVICE, ["p4"])
        assert len(listener.heard()) == 1
    assert len(listener.heard()) == 1


def test_a_replay_request_wakes_the_listener(writer: psycopg.Connection, listener: Listener) -> None:
    writer.execute("INSERT INTO quarantine (received_at, topic, reason, payload) VALUES (now(), 't', 'r', '')")
    assert listener.heard() == []
    writer.execute("UPDATE quarantine SET replay_requested_at = now(), replay_reason = 'decoder fixed'")
    assert listener.heard() == ["replay:0"]
    writer.execute("UPDATE quarantine SET replay_requested_at = NULL")
    assert listener.heard() == []
