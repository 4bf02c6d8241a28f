"""What the archive's tests share: days of readings, old alerts and deployments, and runs of maintenance at a given time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from config.storage_settings import ArchiveSettings, RetentionSettings
from storage.archive_access import restore_files
from storage.archive_tables import TABLES
from storage.maintenance_run import MaintenanceReport, run_maintenance
from tests.integration.conftest import TODAY, Database
from tests.integration.writing import NOW, query

RETENTION = RetentionSettings(readings_days=1, partitions_ahead_days=3, alerts_days=30, deployments_days=30)
OLD_DAYS = [TODAY - timedelta(days=3), TODAY - timedelta(days=2)]
"""Days of readings that are past their time at NOW."""
A_DAY = 3 * 801
"""Readings of each."""
LONG_AGO = NOW - timedelta(days=40)

FILL = """
    INSERT INTO devices (device_id, name, type, location)
        SELECT 'press-' || n, 'Press', 'sensor', '' FROM generate_series(1, 3) n ON CONFLICT DO NOTHING;
    INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, humidity, rpm, extra)
        SELECT d.id, %(day)s::date::timestamp AT TIME ZONE 'UTC' + n * interval '97 s', now(),
            round(random()::numeric * 40, 1), CASE WHEN n %% 3 = 0 THEN 'Infinity'::float8 WHEN n %% 3 = 1 THEN random() END, n,
            CASE WHEN n %% 5 = 0 THEN jsonb_build_object('oil', n, 'note', E'a, "quoted"\\n line é', 'empty', '') END
        FROM devices d, generate_series(0, 800) n ORDER BY n, d.id"""
ALERTS = """
    INSERT INTO users (email, password_hash, name, role) VALUES ('o@x.example', '!', 'O', 'user') ON CONFLICT DO NOTHING;
    WITH raised AS (
        INSERT INTO alerts (device_id, user_id, severity, message, status, triggered_at, resolved_at, noticed, metric)
        SELECT (SELECT min(id) FROM devices), (SELECT id FROM users WHERE email = 'o@x.example'), 'warning',
            E'hot, "very"\\n' || n, 'resolved', at - interval '1 min', at, true, CASE WHEN n %% 2 = 0 THEN '' END
        FROM generate_series(0, 59) n, LATERAL (SELECT %(at)s::timestamptz + n * interval '1 h' AS at) AS moment
        RETURNING id, resolved_at)
    INSERT INTO alert_history (alert_id, version, change, status, happened_at)
        SELECT id, v, CASE v WHEN 1 THEN 'raised' ELSE 'resolved' END, 'resolved', resolved_at
        FROM raised, generate_series(1, 2) v"""
DEPLOYMENTS = """
    INSERT INTO ota_versions (version, firmware_url) VALUES ('1.0.0', 'https://x.example/f') ON CONFLICT DO NOTHING;
    WITH ended AS (
        INSERT INTO ota_deployments (device_id, version_id, status, outcome, phase, completed_at)
        SELECT (SELECT min(id) FROM devices), (SELECT id FROM ota_versions LIMIT 1), 'completed', 'succeeded', 'done',
            %(at)s::timestamptz + n * interval '1 h' FROM generate_series(0, 9) n RETURNING id, completed_at)
    INSERT INTO ota_deployment_events (deployment_id, kind, attempt, verdict, status, phase, happened_at)
        SELECT id, 'report', 1, 'accepted', 'completed', 'done', completed_at FROM ended, generate_series(1, 3)"""


def fill(database: Database, days: list[date] | None = None) -> None:
    """Days of readings of three devices: values of every kind, nulls, infinities, and text that is hard to quote."""
    for day in days if days is not None else [*OLD_DAYS, TODAY - timedelta(days=1)]:
        execute(database, FILL, day=day)


def execute(database: Database, script: str, **values: Any) -> None:
    for statement in script.split(";\n"):
        _named(database, statement, values)


def _named(database: Database, statement: str, values: dict[str, Any]) -> None:
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute(statement.encode(), values)


@dataclass
class Keeping:
    """Maintenance of one database with one archive."""

    database: Database
    url: str
    endpoint: str | None = None
    spool: Path | None = None
    timeout_s: float = 60.0
    retention: RetentionSettings = RETENTION
    runs: list[MaintenanceReport] = field(default_factory=list)

    @property
    def archive(self) -> ArchiveSettings:
        return ArchiveSettings(
            url=self.url, s3_endpoint_url=self.endpoint, spool_directory=self.spool, s3_timeout_s=self.timeout_s
        )

    def run(self, now: datetime = NOW, progress: Callable[[int], None] = lambda _: None) -> MaintenanceReport:
        return run_maintenance(self.database.owner, self.retention, self.archive, now, progress)

    def restore(
        self,
        table: str = "sensor_readings",
        device: str | None = None,
        into: str | None = None,
        days: tuple[date, date] = (OLD_DAYS[0], OLD_DAYS[-1]),
    ) -> list[tuple[date, int]]:
        """Restores days; returns them, and their rows."""
        found = restore_files(self.database.owner, self.archive, table, *days, device, into, lambda _: None)
        return [(restored.file.day, restored.rows) for restored in found]

    def environment(self) -> dict[str, str]:
        variables = {
            "FACTORYD_DATABASE__OWNER_URL": self.database.owner,
            "FACTORYD_ARCHIVE__URL": self.url,
            "FACTORYD_RETENTION__READINGS_DAYS": "1",
        }
        if self.endpoint:
            variables["FACTORYD_ARCHIVE__S3_ENDPOINT_URL"] = self.endpoint
        return variables

    def days(self) -> list[date]:
        """Days that have readings."""
        days = "SELECT DISTINCT (recorded_at AT TIME ZONE 'UTC')::date FROM sensor_readings ORDER BY 1"
        return [row[0] for row in query(self.database, days)]

    def files(self, table: str = "sensor_readings") -> list[tuple[date, str, int]]:
        return query(
            self.database,
            "SELECT day, state, row_count FROM archive_files WHERE table_name = %s ORDER BY day, id",
            table,
        )


READINGS_TEXT = """
    SELECT d.device_id, extract(epoch FROM r.recorded_at)::numeric::text, r.id, temperature::text, humidity::text, rpm::text,
        extra::text, extract(epoch FROM r.created_at)::numeric::text
    FROM {} r JOIN devices d ON d.id = r.device_id WHERE (recorded_at AT TIME ZONE 'UTC')::date = ANY(%s)
    ORDER BY r.device_id, r.recorded_at"""


def stored(database: Database, days: list[date], table: str = "sensor_readings") -> list[tuple[Any, ...]]:
    """Readings as the database has them."""
    return query(database, READINGS_TEXT.format(table), days)


def archived(folder: Path, table: str = "sensor_readings") -> list[tuple[Any, ...]]:
    """Readings as DuckDB finds them in the archive: it knows nothing of ours."""
    with duckdb.connect() as connection:
        return connection.execute(
            f"""SELECT device, printf('%d.%06d', epoch_us(recorded_at) // 1000000, epoch_us(recorded_at) % 1000000), id,
                temperature, humidity, rpm, extra, epoch_us(created_at)
            FROM read_parquet('{folder}/table={table}/*/*.parquet', hive_partitioning = true) ORDER BY device_id, recorded_at"""
        ).fetchall()


def ask(folder: Path, question: str) -> list[tuple[Any, ...]]:
    """Asks DuckDB; a table's name in braces stands for its files."""
    places = {table: f"'{folder}/table={table}/*/*.parquet'" for table in TABLES}
    with duckdb.connect() as connection:
        return connection.execute(question.format(**places)).fetchall()


def same(database_rows: list[tuple[Any, ...]], archive_rows: list[tuple[Any, ...]]) -> bool:
    """Tells whether both say the same, to the last bit."""

    def number(text: str | None) -> float | None:
        return None if text is None else float(text)

    told = [
        (device, at, number_, number(t), number(h), number(rpm), extra, round(float(created) * 1_000_000))
        for device, at, number_, t, h, rpm, extra, created in database_rows
    ]
    return told == [(*row[:7], row[7]) for row in archive_rows]
