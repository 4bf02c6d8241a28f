"""A plant with a past, for measurements of reads: devices, a month of readings with their roll-ups, alerts, deployments."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg

from storage.partitions import ensure_partitions
from storage.rollup_sql import hours, minutes_from
from storage.rollups import ROLLED_UNTIL, hour_end, whole_hour

DENSE = timedelta(hours=2)
DENSE_STEPS = 720
"""Of each device in the last two hours, every 10 s; before, as many as there are left."""
STEPS_AT_ONCE = 100
ROLLED_AT_ONCE = timedelta(hours=6)
UNROLLED = timedelta(minutes=2)
VERSIONS = ("1.0.0", "1.1.0", "2.0.0")


@dataclass(frozen=True, slots=True)
class Size:
    """How much; the defaults are those of the issue that asked for fast reads."""

    devices: int = 1_000
    readings: int = 10_000_000
    days: int = 30
    alerts: int = 100_000
    open_alerts: int = 2_000
    deployments: int = 10_000

    def moments(self, now: datetime) -> list[datetime]:
        """Returns the times of one device's readings, rising; the other devices' are a few milliseconds later each."""
        count = self.readings // self.devices
        dense = min(DENSE_STEPS, count // 2)
        sparse, begin = count - dense, now - timedelta(days=self.days)
        apart = (now - DENSE - begin) / sparse
        return [begin + apart * step for step in range(sparse)] + [now - DENSE + DENSE / dense * step for step in range(dense)]


def name_of(number: int) -> str:
    """Returns a device's id, from 1."""
    return f"past-{number:05d}"


PEOPLE: LiteralString = """
    INSERT INTO users (email, password_hash, name, role, login)
    SELECT format('person%s@example.com', n), '!', 'Person ' || n, 'user', 'person' || n FROM generate_series(1, 20) AS n"""
DEVICES: LiteralString = """
    INSERT INTO devices (device_id, name, type, location, status, user_id)
    SELECT 'past-' || to_char(n, 'FM00000'), 'Press ' || n, 'press', 'hall ' || n %% 9, 'online', u.id
    FROM generate_series(1, %(devices)s) AS n JOIN users u ON u.login = 'person' || n %% 20 + 1 ORDER BY n"""
# As they come: moment by moment, each device one after the other. Every tenth also measures torque.
READINGS: LiteralString = """
    INSERT INTO sensor_readings (device_id, temperature, humidity, pressure, vibration, power_consumption, rpm, recorded_at,
        received_at, extra)
    SELECT d.id, 60 + 20 * sin(d.id + extract(epoch FROM at) / 7000) + random(), 40, 101.3, random(), 1500, 1450,
        at + d.id * interval '7 ms', at + d.id * interval '7 ms' + interval '40 ms',
        CASE WHEN d.id %% 10 = 0 THEN jsonb_build_object('torque', d.id) END
    FROM unnest(%(moments)s::timestamptz[]) AS at, devices d ORDER BY at, d.id"""
LATEST: LiteralString = """
    INSERT INTO device_latest (device_id, recorded_at, received_at, temperature)
    SELECT d.id, r.recorded_at, r.received_at, r.temperature
    FROM devices d, LATERAL (
        SELECT * FROM sensor_readings r WHERE r.device_id = d.id AND r.recorded_at >= %(now)s - interval '1 hour'
        ORDER BY r.recorded_at DESC LIMIT 1) AS r"""
THRESHOLDS: LiteralString = """
    INSERT INTO alert_thresholds (device_id, user_id, metric_type, max_value, severity)
    SELECT d.id, d.user_id, 'temperature', 80, 'warning' FROM devices d,
        generate_series(1, %(open_alerts)s / %(devices)s) ORDER BY d.id"""
# Ten in a hundred are critical; the last ones are open, one for each threshold, some of them acknowledged.
ALERTS: LiteralString = """
    INSERT INTO alerts (device_id, threshold_id, user_id, severity, message, status, triggered_at, resolved_at, metric, noticed)
    SELECT t.device_id, t.id, t.user_id,
        (CASE WHEN n %% 10 = 0 THEN 'critical' WHEN n %% 10 < 4 THEN 'warning' ELSE 'info' END)::alert_severity,
        'Press: temperature 81.2 °C above 80 °C',
        (CASE WHEN n <= %(alerts)s - %(open_alerts)s THEN 'resolved' WHEN n %% 10 = 9 THEN 'acknowledged' ELSE 'active'
            END)::alert_status, at, CASE WHEN n <= %(alerts)s - %(open_alerts)s THEN at + interval '5 minutes' END,
        'temperature', true
    FROM generate_series(1, %(alerts)s) AS n JOIN alert_thresholds t ON t.id = n %% %(open_alerts)s + 1,
        LATERAL (SELECT %(now)s - (%(alerts)s - n) / 3 * interval '1 second' AS at) AS moment ORDER BY n"""
RELEASES: LiteralString = """
    INSERT INTO ota_versions (version, firmware_url, status, released_at)
    SELECT v, 'https://firmware.example.com/' || v, 'released', now() FROM unnest(%(versions)s::text[]) AS v"""
DEPLOYMENTS: LiteralString = """
    INSERT INTO ota_deployments (device_id, version_id, status, phase, outcome, progress_percent, created_at, completed_at)
    SELECT d.id, v.id, (CASE WHEN n %% 20 = 0 THEN 'failed' WHEN n %% 20 = 1 THEN 'in_progress' ELSE 'completed'
            END)::ota_deployment_status, CASE WHEN n %% 20 = 1 THEN 'downloading' ELSE 'done' END,
        CASE WHEN n %% 20 = 0 THEN 'failed' WHEN n %% 20 > 1 THEN 'succeeded' END, 50, %(now)s,
        CASE WHEN n %% 20 <> 1 THEN %(now)s END
    FROM generate_series(1, %(deployments)s) AS n JOIN devices d ON d.id = n / 3 %% %(devices)s + 1
        JOIN ota_versions v ON v.id = n %% cardinality(%(versions)s::text[]) + 1 ORDER BY n"""


def fill(superuser_url: str, owner_url: str, size: Size, now: datetime) -> None:
    """Fills an empty, migrated database.

    Args:
        superuser_url: may set session_replication_role: no foreign key is checked ten million times.
        owner_url: makes the partitions.
        size: how much.
        now: aware UTC; the last readings are of this moment.
    """
    ensure_partitions(owner_url, size.days + 1, 1, now.astimezone(UTC).date())
    values = {
        "devices": size.devices,
        "alerts": size.alerts,
        "open_alerts": size.open_alerts,
        "deployments": size.deployments,
        "versions": list(VERSIONS),
        "now": now,
    }
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for setting in ("session_replication_role = replica", "jit = off", "TimeZone = 'UTC'", "synchronous_commit = off"):
            connection.execute(f"SET {setting}".encode())
        connection.execute(PEOPLE)
        connection.execute(DEVICES, values)
        moments = size.moments(now)
        for first in range(0, len(moments), STEPS_AT_ONCE):
            connection.execute(READINGS, {"moments": moments[first : first + STEPS_AT_ONCE]})
        connection.execute("VACUUM ANALYZE sensor_readings")
        roll_up(connection, moments[0], now - UNROLLED)
        for statement in (LATEST, THRESHOLDS, ALERTS, RELEASES, DEPLOYMENTS):
            connection.execute(statement, values)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def roll_up(connection: psycopg.Connection, since: datetime, until: datetime) -> None:
    """Makes the roll-ups by the product's own statements, and sets its mark."""
    mark = until.replace(second=0, microsecond=0)
    for begin, end in _stretches(whole_hour(since), mark):
        span = {"from_at": begin, "until_at": end, "devices": None}
        connection.execute(minutes_from("sensor_readings").encode(), span)
        connection.execute(hours().encode(), {**span, "from_at": whole_hour(begin), "until_at": hour_end(end)})
    connection.execute("INSERT INTO daemon_state (key, value) VALUES (%s, %s)", [ROLLED_UNTIL, mark.isoformat()])


def _stretches(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    while since < until:
        yield since, min(since + ROLLED_AT_ONCE, until)
        since += ROLLED_AT_ONCE
