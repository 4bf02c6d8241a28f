"""`factoryd verify` finds what does not agree, and nothing where all does; on a real database."""

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from config.settings import DatabaseSettings
from storage.integrity import CHECKS, verify
from storage.partitions import ensure_partitions
from tests.integration.archiving import Keeping, fill
from tests.integration.command_line import CommandLine
from tests.integration.conftest import BINARIES, Database
from tests.integration.writing import query

pytestmark = pytest.mark.parametrize("cluster", [max(BINARIES)], indirect=True)

TODAY = datetime.now(UTC).date()
MIDNIGHT = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC)

SITE = """
    INSERT INTO devices (device_id, name, type, location) VALUES ('press-1', '', '', '');
    INSERT INTO users (email, password_hash, name, role) VALUES ('o@x.example', '!', 'O', 'user');
    INSERT INTO alert_thresholds (device_id, user_id, metric_type, max_value, severity)
        SELECT d.id, u.id, 'temperature', 1, 'info' FROM devices d, users u WHERE u.email = 'o@x.example';
    INSERT INTO alerts (device_id, threshold_id, severity, message, noticed)
        SELECT device_id, id, severity, 'x', true FROM alert_thresholds;
    INSERT INTO rule_state (threshold_id, phase) SELECT id, 'active' FROM alert_thresholds;
    INSERT INTO alert_history (alert_id, version, change, status, happened_at)
        SELECT id, 1, 'raised', 'active', now() FROM alerts;
    INSERT INTO ota_versions (version, firmware_url) VALUES ('1.0.0', 'https://x.example/f');
    INSERT INTO ota_deployments (device_id, version_id, status, outcome, phase, events, completed_at)
        SELECT d.id, v.id, 'completed', 'succeeded', 'done', 1, now() FROM devices d, ota_versions v;
    INSERT INTO ota_deployment_events (deployment_id, kind, attempt, verdict, status, phase, happened_at)
        SELECT id, 'report', 1, 'accepted', 'completed', 'done', now() FROM ota_deployments"""


@pytest.fixture
def site(database: Database) -> Database:
    """All agrees."""
    query(database, "DROP TABLE " + ", ".join(name for (name,) in query(database, OLD)))
    ensure_partitions(database.owner, 2, 1, TODAY)
    for statement in SITE.split(";\n"):
        query(database, statement)
    reading = "INSERT INTO sensor_readings (device_id, recorded_at) SELECT id, %s FROM devices"
    query(database, reading, MIDNIGHT - timedelta(hours=2))
    latest = "INSERT INTO device_latest (device_id, recorded_at, received_at) SELECT device_id, recorded_at, now()"
    query(database, f"{latest} FROM sensor_readings")
    rolled = "INSERT INTO readings_1h (device_id, bucket, readings) SELECT device_id, recorded_at, 1 FROM sensor_readings"
    query(database, rolled)
    query(database, "INSERT INTO daemon_state (key, value) VALUES ('readings_rolled_until', %s)", MIDNIGHT.isoformat())
    return database


OLD = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'sensor_readings'::regclass"


def problems(database: Database) -> list[str]:
    checked = list(verify(DatabaseSettings.model_validate({"url": database.daemon})))
    assert [one.name for one in checked] == [check.name for check in CHECKS]
    return [problem for one in checked for problem in one.problems]


def test_all_agrees(site: Database) -> None:
    assert problems(site) == []


def gap(site: Database) -> None:
    query(site, f"DROP TABLE sensor_readings_{TODAY - timedelta(days=1):%Y%m%d}")
    query(site, "DELETE FROM readings_1h")


def no_day(site: Database) -> None:
    query(site, f"DROP TABLE sensor_readings_{TODAY:%Y%m%d}, sensor_readings_{TODAY + timedelta(days=1):%Y%m%d}")


def sealed(site: Database) -> None:
    day = f"sensor_readings_{TODAY - timedelta(days=2):%Y%m%d}"
    query(site, f"ALTER TABLE {day} ADD CONSTRAINT factoryd_sealed CHECK (false) NOT VALID")
    query(site, f"ALTER TABLE sensor_readings DETACH PARTITION {day}")


def under_way(site: Database) -> None:
    query(
        site,
        """INSERT INTO archive_files
            (table_name, day, url, row_count, size_bytes, sha256, schema_version, from_at, to_at, created_at)
        VALUES ('alerts', now(), 'file:///x', 1, 1, repeat('0', 64), 7, now(), now(), now() - interval '2 days')""",
    )


DISAGREEMENTS: list[tuple[str | Callable[[Database], None], list[str]]] = [
    (gap, ["no partition from "]),
    (no_day, ["no partition for today"]),
    (sealed, ["is sealed, and still there"]),
    (under_way, ["file:///x is uploading since"]),
    (
        "SET session_replication_role = replica; INSERT INTO sensor_readings (device_id, recorded_at) VALUES (77, now())",
        ["readings of device number 77"],
    ),
    ("UPDATE device_latest SET recorded_at = recorded_at - interval '1 s'", ["device press-1: newest reading"]),
    ("DELETE FROM device_latest", ["device press-1: newest reading"]),
    ("UPDATE readings_1h SET readings = 2", ["device press-1: 1 readings, 2 in readings_1h"]),
    ("DELETE FROM readings_1h", ["device press-1: 1 readings, 0 in readings_1h"]),
    ("UPDATE rule_state SET phase = 'pending'", ["alert 1 is open, and threshold 1 is pending"]),
    ("DELETE FROM rule_state", ["alert 1 is open, and threshold 1 is normal"]),
    (
        "UPDATE alerts SET status = 'resolved', version = 2, resolved_at = now()",
        ["threshold 1 is active, and has no open alert"],
    ),
    ("DELETE FROM alert_history", ["alert 1 has version 1, its history ends with 0"]),
    ("DELETE FROM ota_deployment_events", ["deployment 1 counts 1 events, and has 0"]),
    ("UPDATE ota_deployments SET outcome = NULL", ["deployment 1 is completed, and its outcome is open"]),
    ("UPDATE ota_deployments SET holds_device = true", ["deployment 1 has ended, and still holds its device"]),
    (
        "INSERT INTO sequence_gaps (device_id, first_seq, last_seq, missing) SELECT id, 1, 2, '{}' FROM devices",
        ["gap 1 is open, and misses nothing"],
    ),
]


@pytest.mark.parametrize(("act", "expected"), DISAGREEMENTS)
def test_what_does_not_agree_is_told(act: str | Callable[[Database], None], expected: list[str], site: Database) -> None:
    if isinstance(act, str):
        query(site, act)
    else:
        act(site)
    found = problems(site)
    assert len(found) == len(expected), found
    assert all(words in line for words, line in zip(expected, found, strict=True)), found


def test_the_command_says_so_and_remembers(site: Database) -> None:
    factoryd = CommandLine(site.daemon)
    assert factoryd.good("verify").count("good ") == len(CHECKS)
    query(site, "DELETE FROM alert_history")
    answer = factoryd("verify")
    assert answer.code == 1
    assert "BAD   an alert's history ends with its present version\n      alert 1" in answer.out
    assert "1 things do not agree" in answer.err
    assert [one["good"] for one in factoryd("verify", "-o", "json").json()].count(False) == 1
    runs = query(site, "SELECT outcome, detail->>'problems' FROM job_runs WHERE job = 'verify' ORDER BY id")
    assert runs == [("done", "0"), ("failed", "1"), ("failed", "1")]


def test_files_are_held_against_the_manifest(database: Database, tmp_path: Path) -> None:
    fill(database)
    folder = tmp_path / "archive"
    keeping = Keeping(database, folder.as_uri())
    keeping.run()
    factoryd = CommandLine(database.daemon, keeping.environment())
    assert "good  files of the archive are there" in factoryd("verify").out
    first, second = sorted((folder / "table=sensor_readings").rglob("*.parquet"))
    first.write_bytes(b"x")
    second.rename(second.with_name("other.parquet"))
    answer = factoryd("verify").out
    assert f"{first.name} has 1 bytes, and not " in answer
    assert f"{second.name} is not there" in answer
    assert "other.parquet" in answer


def test_the_readmes_lines_work(site: Database, tmp_path: Path) -> None:
    query(site, "UPDATE devices SET device_id = 'press-7'")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What it was, and where it goes")[2].partition("\n## ")[0]
    lines = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0].splitlines()
    factoryd = CommandLine(site.daemon, Keeping(site, tmp_path.as_uri()).environment())
    said = {line: factoryd.good(*shlex.split(line)[1:]) for line in lines}
    assert len(said) == 5
    assert all("BAD" not in text for text in said.values())
