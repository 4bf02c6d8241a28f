"""Classes of thresholds: the database itself keeps one row per device that the selector matches, whoever writes."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.conftest import Database

DEVICE = """
    INSERT INTO devices (device_id, name, type, location, via_id)
    VALUES (%s, 'n', %s, %s, (SELECT id FROM devices WHERE device_id = %s))"""
PERSON = "INSERT INTO users (login, email, password_hash, name, role) VALUES (%s, 'a@b.c', '!', 'A', 'user')"


class Plant:
    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def device(self, name: str, kind: str = "press", location: str = "hall-1", via: str | None = None) -> None:
        self.connection.execute(DEVICE.encode(), [name, kind, location, via])

    def threshold_class(self, **selector: str) -> int:
        row = self.connection.execute(
            "INSERT INTO threshold_classes (selector, metric_type, max_value, severity)"
            " VALUES (%s, 'rpm', 80, 'info') RETURNING id",
            [Jsonb(selector)],
        ).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def covered(self) -> list[str]:
        found = self.connection.execute(
            "SELECT d.device_id FROM alert_thresholds t JOIN devices d ON d.id = t.device_id"
            " WHERE class_id IS NOT NULL ORDER BY 1"
        )
        return [name for (name,) in found]


@pytest.fixture
def plant(database: Database) -> Iterator[Plant]:
    with psycopg.connect(database.daemon, autocommit=True) as connection:
        yield Plant(connection)


@pytest.mark.parametrize(
    ("selector", "covered"),
    [
        ({"type": "press"}, ["p-1", "p-2"]),
        ({"type": "press", "location": "hall-2"}, ["p-2"]),
        ({"location": "hall*"}, ["gw-1", "p-1", "p-2"]),
        ({"device": "p-*"}, ["p-1", "p-2"]),
        ({"via": "gw-1"}, ["p-2"]),
        ({"owner": "ada"}, ["p-1"]),
        ({"device": "p_1"}, []),
        ({"device": "%"}, []),
        ({"colour": "red"}, []),
    ],
)
def test_what_a_selector_matches(plant: Plant, selector: dict[str, str], covered: list[str]) -> None:
    plant.device("gw-1", "gateway")
    plant.device("p-1")
    plant.device("p-2", location="hall-2", via="gw-1")
    plant.connection.execute(PERSON, ["ada"])
    plant.connection.execute("UPDATE devices SET user_id = (SELECT id FROM users WHERE login = 'ada') WHERE device_id = 'p-1'")
    plant.threshold_class(**selector)
    assert plant.covered == covered


def test_devices_come_go_and_change(plant: Plant) -> None:
    plant.threshold_class(type="press", via="gw-*")
    plant.device("gw-1", "gateway")
    plant.device("p-1", via="gw-1")
    assert plant.covered == ["p-1"]
    plant.connection.execute("UPDATE devices SET type = 'mill' WHERE device_id = 'p-1'")
    assert plant.covered == []
    plant.connection.execute("UPDATE devices SET type = 'press' WHERE device_id = 'p-1'")
    plant.connection.execute("UPDATE devices SET device_id = 'other' WHERE device_id = 'gw-1'")
    assert plant.covered == [], "its gateway has another name"
    plant.connection.execute("UPDATE devices SET device_id = 'gw-2' WHERE device_id = 'other'")
    assert plant.covered == ["p-1"]


def test_an_owner_has_another_login(plant: Plant) -> None:
    plant.threshold_class(owner="ada")
    plant.connection.execute(PERSON, ["ida"])
    plant.device("p-1")
    plant.connection.execute("UPDATE devices SET user_id = (SELECT id FROM users WHERE login = 'ida')")
    assert plant.covered == []
    plant.connection.execute("UPDATE users SET login = 'ada' WHERE login = 'ida'")
    assert plant.covered == ["p-1"]


def test_a_changed_class_changes_its_rows_in_place(plant: Plant) -> None:
    plant.device("p-1")
    number = plant.threshold_class(type="*")
    before = plant.connection.execute("SELECT id FROM alert_thresholds").fetchall()
    plant.connection.execute("UPDATE threshold_classes SET max_value = 90, for_seconds = 5 WHERE id = %s", [number])
    rows = plant.connection.execute("SELECT id, max_value, for_seconds FROM alert_thresholds").fetchall()
    assert rows == [(before[0][0], 90.0, 5.0)]
    plant.connection.execute("DELETE FROM threshold_classes")
    assert plant.covered == []


def test_a_device_and_a_class_of_one_moment_do_not_miss_each_other(plant: Plant, database: Database) -> None:
    with psycopg.connect(database.daemon) as other:
        other.execute(DEVICE.encode(), ["p-1", "press", "hall-1", None])
        adding = threading.Thread(target=plant.threshold_class, kwargs={"type": "press"})
        adding.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with psycopg.connect(database.admin, autocommit=True) as watcher:
            while watcher.execute(waiting).fetchone() == (0,):
                assert adding.is_alive(), "it did not wait"
        other.commit()
        adding.join(10)
    assert plant.covered == ["p-1"]
