"""`factoryd verify`: what must agree, asked in one snapshot. Each check yields a line for every disagreement.

Transactions keep these rules; a disagreement means that a restore went wrong, somebody wrote by hand, or a fault of ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.partitions import LOWER_BOUND, UPPER_BOUND
from storage.rollups import ROLLED_UNTIL

FEW = 20
"""Disagreements that are told of one check."""
STATEMENT_TIMEOUT_S = 600.0


class Check(NamedTuple):
    """What must agree, and the query for what does not: one text per row."""

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Checked:
    """How a check went; `problems` are at most FEW."""

    name: str
    problems: tuple[str, ...]


_DAYS = f"""days AS (
    SELECT c.relname, {LOWER_BOUND} AS from_at, {UPPER_BOUND} AS to_at, i.inhdetachpending AS pending
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'public.sensor_readings'::regclass)"""  # noqa: S608 - our constants

CHECKS = (
    Check(
        "partitions follow one another without gaps",
        f"""WITH {_DAYS}, neighbours AS (SELECT *, lead(from_at) OVER (ORDER BY from_at) AS next FROM days)
            SELECT format('no partition from %s to %s: run factoryd migrate', to_at, next) FROM neighbours WHERE to_at < next
            UNION ALL SELECT format('no partition for today: run factoryd migrate')
            WHERE NOT EXISTS (SELECT FROM days WHERE now() >= from_at AND now() < to_at)""",  # noqa: S608 - our constants
    ),
    Check(
        "no day is left half-way to the archive",
        f"""WITH {_DAYS}
            SELECT format('%s is being detached: run factoryd maintenance run', relname) FROM days WHERE pending
            UNION ALL SELECT format('%s is sealed, and still there: run factoryd maintenance run', conrelid::regclass)
            FROM pg_constraint WHERE conname = 'factoryd_sealed'""",  # noqa: S608
    ),
    Check(
        "what is on its way to the archive arrives",
        """SELECT format('%s is %s since %s: run factoryd maintenance run', url, state, created_at) FROM archive_files
            WHERE state <> 'complete' AND created_at < now() - interval '1 day'""",
    ),
    Check(
        "readings are of devices that are registered",
        f"""WITH RECURSIVE {_DAYS}, numbers AS (
                (SELECT device_id FROM sensor_readings ORDER BY device_id LIMIT 1)
                UNION ALL SELECT (SELECT r.device_id FROM sensor_readings r WHERE r.device_id > n.device_id
                    ORDER BY r.device_id LIMIT 1) FROM numbers n WHERE n.device_id IS NOT NULL)
            SELECT format('readings of device number %s, which is not registered', device_id) FROM numbers n
            WHERE device_id IS NOT NULL AND NOT EXISTS (SELECT FROM devices d WHERE d.id = n.device_id)""",  # noqa: S608
    ),
    Check(
        "the latest values are those of the newest reading",
        """SELECT format('device %s: newest reading %s, latest values of %s', d.device_id, r.recorded_at, l.recorded_at)
            FROM devices d LEFT JOIN device_latest l ON l.device_id = d.id CROSS JOIN LATERAL (
                SELECT recorded_at FROM sensor_readings r WHERE r.device_id = d.id ORDER BY recorded_at DESC LIMIT 1) AS r
            WHERE l.recorded_at IS NULL OR l.recorded_at < r.recorded_at""",
    ),
    Check(
        "yesterday's roll-ups count its readings",
        f"""WITH bounds AS (
                SELECT date_trunc('day', now(), 'UTC') - interval '1 day' AS from_at, date_trunc('day', now(), 'UTC') AS to_at),
            raw AS (SELECT r.device_id AS number, count(*) AS n FROM sensor_readings r, bounds
                WHERE recorded_at >= from_at AND recorded_at < to_at GROUP BY r.device_id),
            rolled AS (SELECT r.device_id AS number, sum(readings) AS n FROM readings_1h r, bounds
                WHERE bucket >= from_at AND bucket < to_at GROUP BY r.device_id)
            SELECT format('device %s: %s readings, %s in readings_1h', d.device_id, coalesce(raw.n, 0), coalesce(rolled.n, 0))
            FROM raw FULL JOIN rolled USING (number) JOIN devices d ON d.id = number, bounds
            WHERE raw.n IS DISTINCT FROM rolled.n
                AND NOT EXISTS (SELECT FROM rollup_repairs p WHERE p.hour >= from_at AND p.hour < to_at)
                AND (SELECT value::timestamptz FROM daemon_state WHERE key = '{ROLLED_UNTIL}') >= to_at""",  # noqa: S608
    ),
    Check(
        "open alerts and rule states agree",
        """SELECT format('alert %s is open, and threshold %s is %s', a.id, a.threshold_id, coalesce(s.phase, 'normal'))
            FROM alerts a LEFT JOIN rule_state s ON s.threshold_id = a.threshold_id
            WHERE a.status <> 'resolved' AND a.kind = 'threshold' AND a.origin = 'live' AND a.noticed
                AND a.threshold_id IS NOT NULL AND coalesce(s.phase, 'normal') NOT IN ('active', 'recovering')
            UNION ALL SELECT format('threshold %s is %s, and has no open alert', s.threshold_id, s.phase) FROM rule_state s
            WHERE s.phase IN ('active', 'recovering') AND NOT s.latent AND NOT EXISTS (SELECT FROM alerts a
                WHERE a.threshold_id = s.threshold_id AND a.kind = 'threshold' AND a.status <> 'resolved')""",
    ),
    Check(
        "an alert's history ends with its present version",
        """SELECT format('alert %s has version %s, its history ends with %s', a.id, a.version, coalesce(h.version, 0))
            FROM alerts a LEFT JOIN LATERAL (SELECT max(version) AS version FROM alert_history WHERE alert_id = a.id) h ON true
            WHERE a.noticed AND a.status <> 'resolved' AND a.origin = 'live' AND h.version IS DISTINCT FROM a.version""",
    ),
    Check(
        "deployments and their histories agree",
        """SELECT format('deployment %s counts %s events, and has %s', p.id, p.events, e.n)
            FROM ota_deployments p CROSS JOIN LATERAL (
                SELECT count(*) AS n FROM ota_deployment_events WHERE deployment_id = p.id) e WHERE p.events <> e.n
            UNION ALL SELECT format('deployment %s is %s, and its outcome is %s', id, status, coalesce(outcome, 'open'))
            FROM ota_deployments WHERE (status IN ('completed', 'failed')) <> (outcome IS NOT NULL)
            UNION ALL SELECT format('deployment %s has ended, and still holds its device', id)
            FROM ota_deployments WHERE holds_device AND status IN ('completed', 'failed')""",
    ),
    Check(
        "sequence gaps that are open miss something",
        """SELECT format('gap %s is open, and misses nothing', id) FROM sequence_gaps
            WHERE closed_at IS NULL AND isempty(missing)""",
    ),
)


def verify(settings: DatabaseSettings) -> Iterator[Checked]:
    """Asks all checks, in one snapshot.

    Raises:
        As `command_connection`.
    """
    with command_connection(settings) as connection:
        connection.execute(f"SET statement_timeout = '{round(STATEMENT_TIMEOUT_S)}s'")
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for check in CHECKS:
                yield Checked(check.name, _problems(connection, check))


def _problems(connection: psycopg.Connection, check: Check) -> tuple[str, ...]:
    rows = connection.execute(f"SELECT * FROM ({check.query}) AS found LIMIT {FEW}".encode()).fetchall()  # noqa: S608
    return tuple(text for (text,) in rows)
