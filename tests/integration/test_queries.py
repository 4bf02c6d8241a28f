"""storage.queries: the right rows in the right order, page by page, from a real database."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from pydantic import SecretStr

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.queries import (
    MAX_PAGE,
    ActiveAlert,
    AlertPlace,
    DeploymentPlace,
    Reading,
    active_alerts,
    deployments_of,
    device_overview,
    recent_readings,
)
from storage.refusals import InvalidInput, NotFound
from tests.integration.command_line import rows
from tests.integration.conftest import TODAY, Database

NOON = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
PLANT = """
    INSERT INTO users (login, email, password_hash, name, role) VALUES
        ('ada', 'ada@example.com', '!', 'Ada', 'user'), ('bob', 'bob@example.com', '!', 'Bob', 'user');
    INSERT INTO devices (device_id, name, type, location, status, user_id, retired_at) VALUES
        ('press-2', 'Press 2', 'press', 'hall 1', 'error', (SELECT id FROM users WHERE login = 'ada'), NULL),
        ('press-1', 'Press 1', 'press', 'hall 1', 'online', (SELECT id FROM users WHERE login = 'ada'), NULL),
        ('lathe', 'Lathe', 'lathe', 'hall 2', 'offline', NULL, NULL),
        ('old', 'Old', 'lathe', 'hall 2', 'offline', (SELECT id FROM users WHERE login = 'ada'), now())"""
READING = """
    INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, extra)
    SELECT id, %s, %s, %s, %s::jsonb FROM devices WHERE device_id = %s"""
ALERT = """
    INSERT INTO alerts (device_id, user_id, severity, message, status, triggered_at, kind, metric, value)
    SELECT d.id, u.id, %s::alert_severity, 'hot', %s::alert_status, %s, %s, 'temperature', 81.5
    FROM devices d LEFT JOIN users u ON u.login = %s WHERE d.device_id = %s RETURNING alerts.id"""
DEPLOYMENT = """
    INSERT INTO ota_deployments (device_id, version_id, status, outcome, phase)
    SELECT d.id, v.id, %s::ota_deployment_status, %s, 'done' FROM devices d, ota_versions v
    WHERE d.device_id = %s AND v.version = %s RETURNING ota_deployments.id"""


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def plant(database: Database) -> Database:
    rows(database.owner, PLANT)
    return database


@pytest.fixture
def connection(plant: Database) -> Iterator[psycopg.Connection]:
    with command_connection(DatabaseSettings(url=SecretStr(plant.daemon))) as connection:
        yield connection


class TestReadings:
    @pytest.fixture(autouse=True)
    def _stored(self, plant: Database) -> None:
        for seconds in (-86_400, 0, 1, 2, 3):
            extra = '{"torque": 5}' if seconds == 1 else None
            rows(plant.daemon, READING, at(seconds), at(seconds + 9), seconds if seconds != 2 else None, extra, "press-1")
        rows(plant.daemon, READING, at(2.5), at(2.5), -1, None, "press-2")

    def seconds(self, found: Sequence[Reading]) -> list[float]:
        return [(reading.recorded_at - NOON).total_seconds() for reading in found]

    def test_the_newest_first_over_the_partitions(self, connection: psycopg.Connection) -> None:
        found = recent_readings(connection, "press-1", since=at(-100_000))
        assert self.seconds(found) == [3, 2, 1, 0, -86_400]
        assert asdict(found[2]) == {
            "recorded_at": at(1),
            "temperature": 1.0,
            **dict.fromkeys(("humidity", "pressure", "vibration", "power_consumption", "rpm")),
            "extra": {"torque": 5},
            "received_at": at(10),
        }

    def test_from_since_to_before_until(self, connection: psycopg.Connection) -> None:
        assert self.seconds(recent_readings(connection, "press-1", since=at(1), until=at(3))) == [2, 1]
        assert self.seconds(recent_readings(connection, "press-1", since=at(1), until=at(3), before=at(2))) == [1]
        assert self.seconds(recent_readings(connection, "press-1", since=at(1), until=at(2), before=at(3))) == [1]

    @pytest.mark.parametrize("limit", [1, 2, 5])
    def test_pages_join(self, connection: psycopg.Connection, limit: int) -> None:
        found, before = list[Reading](), None
        while page := recent_readings(connection, "press-1", since=at(-100_000), before=before, limit=limit):
            found += page
            before = page[-1].recorded_at
        assert self.seconds(found) == [3, 2, 1, 0, -86_400]

    @pytest.mark.parametrize(("metric", "expected"), [("temperature", [3, 1, 0]), ("torque", [1]), ("it's %s \"", [])])
    def test_of_one_metric(self, connection: psycopg.Connection, metric: str, expected: list[float]) -> None:
        assert self.seconds(recent_readings(connection, "press-1", since=at(0), metric=metric)) == expected

    def test_what_is_refused(self, connection: psycopg.Connection) -> None:
        with pytest.raises(NotFound, match="device nobody is not registered; factoryd device add nobody"):
            recent_readings(connection, "nobody", since=at(0))
        with pytest.raises(InvalidInput, match="needs an offset"):
            recent_readings(connection, "press-1", since=datetime(2026, 5, 20))  # noqa: DTZ001 - that is the point
        with pytest.raises(InvalidInput, match="needs an offset"):
            recent_readings(connection, "press-1", since=at(0), before=datetime(2026, 5, 20))  # noqa: DTZ001
        with pytest.raises(InvalidInput, match="the end must be later"):
            recent_readings(connection, "press-1", since=at(0), until=at(0))
        for limit in (0, -1, MAX_PAGE + 1):
            with pytest.raises(InvalidInput, match=f"limit: {limit} is not from 1"):
                recent_readings(connection, "press-1", since=at(0), limit=limit)

    def test_a_device_without_readings_has_none(self, connection: psycopg.Connection) -> None:
        assert recent_readings(connection, "lathe", since=at(-100_000)) == []


class TestAlerts:
    @pytest.fixture
    def numbers(self, plant: Database) -> dict[str, int]:
        """Alerts by name; several of the same severity and moment."""
        stored = {}
        for name, severity, status, seconds, owner, device in (
            ("info", "info", "active", 50, "ada", "press-1"),
            ("first", "critical", "active", 0, "ada", "press-1"),
            ("second", "critical", "active", 0, None, "press-1"),
            ("later", "critical", "active", 1, "bob", "lathe"),
            ("warning", "warning", "active", 9, "ada", "press-2"),
            ("seen", "warning", "acknowledged", 9, "ada", "press-2"),
            ("over", "critical", "resolved", 99, "ada", "press-1"),
        ):
            stored[name] = rows(plant.daemon, ALERT, severity, status, at(seconds), name, owner, device)[0][0]
        return stored

    def test_critical_first_then_the_newest(self, connection: psycopg.Connection, numbers: dict[str, int]) -> None:
        order = ["later", "second", "first", "warning", "info"]
        assert [alert.id for alert in active_alerts(connection)] == [numbers[name] for name in order]
        order = ["later", "second", "first", "seen", "warning", "info"]
        assert [alert.id for alert in active_alerts(connection, acknowledged=True)] == [numbers[name] for name in order]

    def test_what_is_said_of_one(self, connection: psycopg.Connection, numbers: dict[str, int]) -> None:
        later, second, *_ = active_alerts(connection)
        assert later == ActiveAlert(
            numbers["later"],
            "critical",
            "active",
            at(1),
            "lathe",
            "Lathe",
            "hall 2",
            "bob",
            "bob@example.com",
            "temperature",
            81.5,
            "hot",
        )
        assert (second.owner, second.owner_email) == (None, None), "nobody's alert is shown all the same"

    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
    def test_pages_join(self, connection: psycopg.Connection, numbers: dict[str, int], limit: int) -> None:
        found, after = list[int](), None
        while page := active_alerts(connection, after=after, acknowledged=True, limit=limit):
            found += [alert.id for alert in page]
            after = AlertPlace(page[-1].severity, page[-1].triggered_at, page[-1].id)
        assert found == [numbers[name] for name in ("later", "second", "first", "seen", "warning", "info")]

    def test_a_page_goes_on_where_an_alert_is_gone(self, connection: psycopg.Connection, numbers: dict[str, int]) -> None:
        first, *rest = active_alerts(connection)
        connection.execute("UPDATE alerts SET status = 'resolved' WHERE id = %s", [first.id])
        assert active_alerts(connection, after=AlertPlace(first.severity, first.triggered_at, first.id)) == rest


class TestOverview:
    def test_each_alert_counts_once_however_many_readings(self, connection: psycopg.Connection, plant: Database) -> None:
        for seconds in range(5):
            rows(plant.daemon, READING, at(seconds), at(seconds), 1, None, "press-1")
        rows(
            plant.daemon, "INSERT INTO device_latest SELECT device_id, max(recorded_at), now() FROM sensor_readings GROUP BY 1"
        )
        for kind, severity, status in (
            ("a", "info", "active"),
            ("b", "info", "active"),
            ("c", "warning", "acknowledged"),
            ("d", "critical", "resolved"),
        ):
            rows(plant.daemon, ALERT, severity, status, at(0), kind, "ada", "press-1")
        found = [
            (view.device, view.status, view.owner, view.active_alerts, view.worst, view.last_reading_at)
            for view in device_overview(connection)
        ]
        assert found == [
            ("lathe", "offline", None, 0, None, None),
            ("press-1", "online", "ada", 2, "warning", at(4)),
            ("press-2", "error", "ada", 0, None, None),
        ]

    def test_of_one_user(self, connection: psycopg.Connection) -> None:
        assert [view.device for view in device_overview(connection, owner="ada")] == ["press-1", "press-2"]
        assert device_overview(connection, owner="bob") == []
        with pytest.raises(NotFound, match="user eve does not exist"):
            device_overview(connection, owner="eve")

    def test_pages_join(self, connection: psycopg.Connection) -> None:
        assert [view.device for view in device_overview(connection, limit=2)] == ["lathe", "press-1"]
        assert [view.device for view in device_overview(connection, after="press-1", limit=2)] == ["press-2"]
        assert [view.device for view in device_overview(connection, after="lathe", owner="ada", limit=1)] == ["press-1"]


class TestDeployments:
    @pytest.fixture
    def numbers(self, plant: Database) -> list[int]:
        rows(plant.daemon, "INSERT INTO ota_versions (version, firmware_url) VALUES ('1.0.0', 'x'), ('2.0.0', 'x')")
        made = []
        for status, outcome, device, version in (
            ("failed", "timed_out", "press-1", "1.0.0"),
            ("completed", "succeeded", "press-1", "1.0.0"),
            ("pending", None, "press-2", "1.0.0"),
            ("completed", "succeeded", "lathe", "2.0.0"),
            ("completed", "succeeded", "lathe", "1.0.0"),
        ):
            made.append(rows(plant.daemon, DEPLOYMENT, status, outcome, device, version)[0][0])
        return made

    def test_by_status_then_number(self, connection: psycopg.Connection, numbers: list[int]) -> None:
        failed, first, pending, other, second = numbers
        assert [view.id for view in deployments_of(connection, "1.0.0")] == [pending, first, second, failed]
        assert [view.id for view in deployments_of(connection, "2.0.0")] == [other]
        (found,) = deployments_of(connection, "1.0.0", status="failed")
        assert (found.id, found.device, found.device_name, found.outcome) == (failed, "press-1", "Press 1", "timed_out")
        assert deployments_of(connection, "2.0.0", status="failed") == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
    def test_pages_join(self, connection: psycopg.Connection, numbers: list[int], limit: int) -> None:
        found, after = list[int](), None
        while page := deployments_of(connection, "1.0.0", after=after, limit=limit):
            found += [view.id for view in page]
            after = DeploymentPlace(page[-1].status, page[-1].id)
        assert found == [view.id for view in deployments_of(connection, "1.0.0")]

    def test_an_unknown_version_is_no_empty_list(self, connection: psycopg.Connection) -> None:
        with pytest.raises(NotFound, match=r"there is no version 9\.9\.9; factoryd firmware list shows all"):
            deployments_of(connection, "9.9.9")


def test_people_and_their_tools_may_ask(plant: Database) -> None:
    """The views ask with the rights of who asks, and the role of tools has these."""
    with command_connection(DatabaseSettings(url=SecretStr(plant.tools))) as connection:
        assert recent_readings(connection, "press-1", since=at(0)) == []
        assert active_alerts(connection) == []
        assert len(device_overview(connection)) == 3
    views = rows(
        plant.owner, "SELECT relname, reloptions FROM pg_class WHERE relkind = 'v' AND relname ~ '^(device|open|version)_'"
    )
    assert {name for name, options in views if options == ["security_invoker=true"]} == {
        *("device_readings", "device_minutes", "device_hours", "open_alerts", "device_overview", "version_deployments")
    }
