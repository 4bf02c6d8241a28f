"""Statements that know only the asked columns work, and what the schema itself promises holds."""

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import errors

from tests.integration.conftest import TODAY, Database

NOON = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
INSERTS = (
    "INSERT INTO users (email, password_hash, name, role) VALUES ('ada@example.com', '$2b$', 'Ada', 'operator')",
    """INSERT INTO devices (device_id, name, type, location, user_id, metadata)
        SELECT 'press-1', 'Press', 'sensor', 'hall 2', id, '{"rack": 4}' FROM users WHERE email = 'ada@example.com'""",
    """INSERT INTO sensor_readings
        (device_id, temperature, humidity, pressure, vibration, power_consumption, rpm, recorded_at)
        SELECT id, 21.5, 40, 101.3, 0.2, 750, 1450, '2026-05-20 12:00Z' FROM devices""",
    """INSERT INTO alert_thresholds (device_id, user_id, metric_type, min_value, max_value, severity)
        SELECT id, user_id, 'temperature', 5, 60, 'warning' FROM devices""",
    """INSERT INTO alerts (device_id, threshold_id, user_id, severity, message, triggered_at)
        SELECT device_id, id, user_id, severity, 'too warm', now() FROM alert_thresholds""",
    "INSERT INTO ota_versions (version, firmware_url) VALUES ('1.2.0', 'https://firmware.example.com/1.2.0.bin')",
    """INSERT INTO ota_deployments (device_id, version_id)
        SELECT devices.id, ota_versions.id FROM devices, ota_versions""",
)


@pytest.fixture
def daemon(shared_database: Database) -> Iterator[psycopg.Connection]:
    """The daemon's own connection, with one row in each contract table; rolled back at the end."""
    with psycopg.connect(shared_database.daemon) as connection:
        for statement in INSERTS:
            assert connection.execute(statement).rowcount == 1
        yield connection
        connection.rollback()


def test_defaults_fill_what_the_contract_does_not_ask_for(daemon: psycopg.Connection) -> None:
    rows = daemon.execute(
        """SELECT devices.status::text, clock, enabled, alerts.status::text, kind, ota_versions.status::text,
            ota_deployments.status::text, progress_percent, devices.updated_at - devices.created_at = interval '0'
            FROM devices, alert_thresholds, alerts, ota_versions, ota_deployments"""
    ).fetchall()
    assert rows == [("offline", "ok", True, "active", "threshold", "draft", "pending", 0, True)]


def test_critical_is_listed_first(daemon: psycopg.Connection) -> None:
    daemon.execute("INSERT INTO alerts (device_id, severity, message, kind) SELECT id, 'critical', '', 'a' FROM devices")
    daemon.execute("INSERT INTO alerts (device_id, severity, message, kind) SELECT id, 'info', '', 'b' FROM devices")
    rows = daemon.execute("SELECT severity FROM alerts ORDER BY severity DESC").fetchall()
    assert rows == [("critical",), ("warning",), ("info",)]


@pytest.mark.parametrize("table", ["users", "devices", "alert_thresholds"])
def test_updated_at_follows_an_update(table: str, daemon: psycopg.Connection) -> None:
    daemon.execute(f"UPDATE {table} SET updated_at = '2000-01-01'".encode())
    assert daemon.execute(f"SELECT count(*) FROM {table} WHERE updated_at <> now()".encode()).fetchone() == (0,)


@pytest.mark.parametrize("device_id", ["a/b", "", "+", "#", "a b", "ä", "x" * 256, "a\n"])
def test_a_device_id_must_fit_a_topic_level(device_id: str, daemon: psycopg.Connection) -> None:
    with pytest.raises((errors.CheckViolation, errors.StringDataRightTruncation)):
        daemon.execute("UPDATE devices SET device_id = %s", [device_id])


@pytest.mark.parametrize("device_id", ["a", "AA:BB:cc-1_2.3", "x" * 255])
def test_usual_device_ids_are_taken(device_id: str, daemon: psycopg.Connection) -> None:
    assert daemon.execute("UPDATE devices SET device_id = %s", [device_id]).rowcount == 1


@pytest.mark.parametrize("interval_s", ["0", "-1", "NaN", "Infinity"])
def test_an_interval_is_a_positive_number(interval_s: str, daemon: psycopg.Connection) -> None:
    with pytest.raises(errors.CheckViolation):
        daemon.execute("UPDATE devices SET interval_s = %s", [interval_s])


class TestOneOpenAlert:
    again = """INSERT INTO alerts (device_id, threshold_id, severity, message)
        SELECT device_id, id, severity, 'still too warm' FROM alert_thresholds"""
    without_threshold = "INSERT INTO alerts (device_id, kind, severity, message) SELECT id, %s, 'info', '' FROM devices"

    @pytest.mark.parametrize("status", ["active", "acknowledged"])
    def test_a_second_one_is_refused(self, status: str, daemon: psycopg.Connection) -> None:
        daemon.execute("UPDATE alerts SET status = %s", [status])
        with pytest.raises(errors.UniqueViolation):
            daemon.execute(self.again)

    def test_a_resolved_one_does_not_count(self, daemon: psycopg.Connection) -> None:
        daemon.execute("UPDATE alerts SET status = 'resolved'")
        daemon.execute(self.again)
        daemon.execute("UPDATE alerts SET status = 'resolved'")
        daemon.execute(self.again)

    def test_without_threshold_it_is_one_per_kind(self, daemon: psycopg.Connection) -> None:
        daemon.execute(self.without_threshold, ["silent"])
        daemon.execute(self.without_threshold, ["clock"])
        with pytest.raises(errors.UniqueViolation):
            daemon.execute(self.without_threshold, ["silent"])

    def test_deleting_the_threshold_resolves_it(self, daemon: psycopg.Connection) -> None:
        daemon.execute(self.without_threshold, ["threshold"])
        daemon.execute("DELETE FROM alert_thresholds")
        rows = daemon.execute("SELECT status::text, threshold_id, resolved_at IS NULL FROM alerts ORDER BY id").fetchall()
        assert rows == [("resolved", None, False), ("active", None, True)]


class TestLogin:
    insert = "INSERT INTO users (email, password_hash, name, role) VALUES (%s, '!', 'x', 'user') RETURNING login"

    @pytest.mark.parametrize(
        ("email", "login"),
        [
            ("Grace.Hopper+shop@example.com", "grace.hopper-shop"),
            ("müller@example.com", "m-ller"),
            ("@example.com", "user"),
            ("no-at-sign", "no-at-sign"),
            ("x" * 200 + "@example.com", "x" * 50),
            ("system@example.com", "system-2"),
        ],
    )
    def test_comes_from_the_email(self, email: str, login: str, daemon: psycopg.Connection) -> None:
        assert daemon.execute(self.insert, [email]).fetchone() == (login,)

    def test_is_made_unique_within_one_statement(self, daemon: psycopg.Connection) -> None:
        rows = daemon.execute(
            """INSERT INTO users (email, password_hash, name, role)
            SELECT 'bo@' || n || '.example', '!', 'Bo', 'user' FROM generate_series(1, 3) n RETURNING login"""
        ).fetchall()
        assert rows == [("bo",), ("bo-2",), ("bo-3",)]

    def test_a_given_one_is_kept(self, daemon: psycopg.Connection) -> None:
        statement = "INSERT INTO users (email, password_hash, name, role, login) VALUES ('c@d.e', '!', 'C', 'user', 'boss')"
        daemon.execute(statement)
        assert daemon.execute("SELECT login FROM users WHERE email = 'c@d.e'").fetchone() == ("boss",)
        with pytest.raises(errors.CheckViolation):
            daemon.execute("UPDATE users SET login = 'a/b' WHERE login = 'boss'")


def test_a_flood_is_one_row_per_device_reason_and_hour(daemon: psycopg.Connection) -> None:
    insert = "INSERT INTO quarantine (received_at, topic, reason, payload, flood_hour) VALUES (now(), 't', 'r', '', %s)"
    daemon.execute(insert, [NOON])
    daemon.execute(insert, [None])
    daemon.execute(insert, [None])
    with pytest.raises(errors.UniqueViolation):
        daemon.execute(insert, [NOON])
