"""What is past its time is in the archive, readable by anyone, before it is gone from the database. On real servers."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from storage.archive_files import list_files
from storage.archive_uploads import ArchiveDamaged, Uploads
from storage.leader import LOCK
from storage.objects import ObjectStore, open_s3
from storage.pace import Pace
from storage.partitions import ensure_partitions
from storage.refusals import Conflict
from storage.sealing import partitions, seal
from tests.integration.archiving import (
    A_DAY,
    ALERTS,
    DEPLOYMENTS,
    LONG_AGO,
    OLD_DAYS,
    Keeping,
    archived,
    ask,
    execute,
    fill,
    same,
    stored,
)
from tests.integration.conftest import TODAY, Database
from tests.integration.object_server import ObjectServer, object_server
from tests.integration.writing import NOW, query

YESTERDAY = TODAY - timedelta(days=1)
LATE = NOW - timedelta(days=3, seconds=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def keeping(database: Database, folder: Path, tmp_path: Path) -> Keeping:
    fill(database)
    return Keeping(database, folder.as_uri(), spool=tmp_path / "spool")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    with object_server(tmp_path / "s3", monkeypatch) as server:
        yield server


def test_days_past_their_time_are_in_the_archive_and_gone(keeping: Keeping, folder: Path, tmp_path: Path) -> None:
    before = stored(keeping.database, OLD_DAYS)
    report = keeping.run()
    assert [(day, rows) for day, rows, _ in report.days] == [(str(day), A_DAY) for day in OLD_DAYS]
    assert not report.errors
    assert keeping.days() == [YESTERDAY]
    assert same(before, archived(folder))
    assert keeping.files() == [(day, "complete", A_DAY) for day in OLD_DAYS]
    assert keeping.run().days == [], "again is no harm"
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_file_explains_itself(keeping: Keeping, folder: Path) -> None:
    keeping.run()
    (manifest,) = (folder / f"manifests/table=sensor_readings/date={OLD_DAYS[0]}").iterdir()
    told = json.loads(manifest.read_text())
    row = "SELECT url, row_count, sha256, size_bytes FROM archive_files WHERE day = %s"
    assert query(keeping.database, row, OLD_DAYS[0]) == [(told["url"], told["row_count"], told["sha256"], told["size_bytes"])]
    assert told["from_at"].startswith(str(OLD_DAYS[0]))
    assert told["url"].startswith(f"{folder.as_uri()}/table=sensor_readings/date={OLD_DAYS[0]}/")


def test_s3_gets_them_the_same_way(keeping: Keeping, s3: ObjectServer) -> None:
    keeping.url, keeping.endpoint = "s3://plant/cold", s3.url
    before = stored(keeping.database, OLD_DAYS)
    assert not keeping.run().errors
    assert same(before, archived(s3.bucket / "cold"))
    assert sum(key.endswith(".parquet") for key in s3.stored()) == 2


def test_a_large_file_goes_in_parts(keeping: Keeping, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.objects.PART_BYTES", 5 << 20)
    many = """INSERT INTO sensor_readings (device_id, recorded_at, temperature, humidity, pressure)
        SELECT 1, %s::timestamptz + n * interval '0.1 s', random(), random(), random() FROM generate_series(1, 350000) n
        ON CONFLICT DO NOTHING"""
    query(keeping.database, many, f"{OLD_DAYS[0]} 00:00:00.05+00")
    keeping.url, keeping.endpoint = "s3://plant/cold", s3.url
    assert not keeping.run().errors
    assert query(keeping.database, "SELECT max(size_bytes) FROM archive_files")[0][0] > 6 << 20, "it took several parts"


def test_what_a_killed_run_had_begun_to_upload_is_given_up(keeping: Keeping, s3: ObjectServer, folder: Path) -> None:
    keeping.url, keeping.endpoint = "s3://plant/cold", s3.url
    with open_s3("s3://plant", s3.url) as client:
        for key in ("cold/table=alerts/x.parquet", "somebody/else"):
            client.create_multipart_upload(Bucket="plant", Key=key)
        assert not keeping.run().errors
        left = client.list_multipart_uploads(Bucket="plant").get("Uploads", [])
        assert [upload["Key"] for upload in left] == ["somebody/else"]
    (folder / "table=alerts").mkdir(parents=True)
    (folder / "table=alerts/.part-x").write_bytes(b"half")
    keeping.url = folder.as_uri()
    assert not keeping.run().errors
    assert not (folder / "table=alerts/.part-x").exists()


def test_what_is_not_past_its_time_stays(keeping: Keeping) -> None:
    assert keeping.run(NOW - timedelta(days=3)).days == []
    early = NOW.replace(hour=0, minute=59)
    assert keeping.run(early).rows == A_DAY, "the day before yesterday ended a day and less than an hour ago"
    assert keeping.run(early + timedelta(minutes=1)).rows == A_DAY


def test_an_empty_day_leaves_no_file(keeping: Keeping) -> None:
    query(keeping.database, "DELETE FROM sensor_readings WHERE recorded_at < %s", OLD_DAYS[1])
    told = [(day, rows, bool(url)) for day, rows, url in keeping.run().days]
    assert told == [(str(OLD_DAYS[0]), 0, False), (str(OLD_DAYS[1]), A_DAY, True)]


def test_without_an_archive_they_are_deleted_because_that_was_said(keeping: Keeping) -> None:
    keeping.url = "none"
    execute(keeping.database, ALERTS, at=LONG_AGO)
    report = keeping.run()
    assert [(rows, url) for _, rows, url in report.days] == [(A_DAY, None)] * 2
    assert report.alerts == 60
    assert keeping.days() == [YESTERDAY]
    assert keeping.files() == []


def test_days_go_by_their_bounds_and_not_by_their_names(keeping: Keeping, folder: Path) -> None:
    names = [f"sensor_readings_{day:%Y%m%d}" for day in OLD_DAYS]
    query(keeping.database, f"ALTER TABLE {names[0]} RENAME TO zebra")
    query(keeping.database, f"ALTER TABLE {names[1]} RENAME TO {names[0]}")
    before = stored(keeping.database, OLD_DAYS)
    assert [day for day, _, _ in keeping.run().days] == [str(day) for day in OLD_DAYS]
    assert same(before, archived(folder))


def test_a_late_row_of_a_sealed_day_is_refused(keeping: Keeping) -> None:
    """By COPY too, whatever session_replication_role says: the writer then quarantines it."""
    with psycopg.connect(keeping.database.owner, autocommit=True) as connection:
        seal(connection, partitions(connection)[0])
    with psycopg.connect(keeping.database.daemon, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        with (
            pytest.raises(psycopg.errors.CheckViolation, match="sealed"),
            connection.cursor().copy("COPY sensor_readings (device_id, recorded_at) FROM STDIN") as copy,
        ):
            copy.write_row([1, OLD_DAYS[0]])


def test_while_a_daemon_leads_it_keeps_its_pace(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    paced: list[float | None] = []

    def keep(pace: Pace, _: int) -> None:
        paced.append(pace.rows_per_s)

    monkeypatch.setattr(Pace, "keep", keep)
    with psycopg.connect(keeping.database.daemon, autocommit=True) as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert keeping.run(NOW.replace(hour=0, minute=59)).rows == A_DAY
    assert set(paced) == {keeping.archive.rows_per_s}
    paced.clear()
    assert keeping.run().rows == A_DAY
    assert paced == []


def test_only_one_run_at_a_time(keeping: Keeping) -> None:
    def again(_: int) -> None:
        with pytest.raises(Conflict, match="another run"):
            keeping.run()

    assert keeping.run(progress=again).rows == 2 * A_DAY


def test_alerts_and_deployments_go_with_what_hangs_on_them(keeping: Keeping, folder: Path) -> None:
    for script in (ALERTS, DEPLOYMENTS):
        execute(keeping.database, script, at=LONG_AGO)
        execute(keeping.database, script, at=NOW - timedelta(days=2))
    inhibited = "UPDATE alerts SET inhibited_by = (SELECT min(id) FROM alerts) WHERE id = (SELECT max(id) FROM alerts)"
    query(keeping.database, inhibited)
    what = "SELECT id, message, metric, severity::text FROM alerts WHERE resolved_at < %s ORDER BY id"
    expected = query(keeping.database, what, NOW - timedelta(days=30))
    report = keeping.run()
    assert not report.errors
    assert (report.alerts, report.deployments) == (60, 10)
    tables = ("alerts", "alert_history", "ota_deployments", "ota_deployment_events")
    assert [query(keeping.database, f"SELECT count(*) FROM {name}")[0][0] for name in tables] == [60, 120, 10, 30]
    assert ask(folder, "SELECT id, message, metric, severity FROM {alerts} ORDER BY id") == expected
    assert ask(folder, "SELECT count(*), count(DISTINCT alert_id) FROM {alert_history}") == [(120, 60)]
    assert ask(folder, "SELECT device, count(*) FROM {ota_deployments} GROUP BY 1") == [("press-1", 10)]
    assert ask(folder, "SELECT count(*) FROM {ota_deployment_events}") == [(30,)]


def test_alerts_that_are_still_open_or_still_to_be_told_stay(keeping: Keeping) -> None:
    execute(keeping.database, ALERTS, at=LONG_AGO)
    reopen = "UPDATE alerts SET status = 'active', resolved_at = NULL, version = 9 WHERE id = (SELECT min(id) FROM alerts)"
    query(keeping.database, reopen)
    outbox = (
        "INSERT INTO alert_outbox (alert_id, version, topic, payload, retain) SELECT max(id), 1, 'x', '', false FROM alerts"
    )
    query(keeping.database, outbox)
    assert keeping.run().alerts == 58


def test_deployments_of_a_live_rollout_stay(keeping: Keeping) -> None:
    execute(keeping.database, DEPLOYMENTS, at=LONG_AGO)
    rollout = "INSERT INTO ota_rollouts (name, version_id, status, selector) SELECT 'r', id, 'running', '{}' FROM ota_versions"
    query(keeping.database, rollout)
    query(keeping.database, "UPDATE ota_deployments p SET rollout_id = r.id FROM ota_rollouts r WHERE p.id = 1")
    assert keeping.run().deployments == 9


def test_a_batch_that_changes_while_it_is_archived_waits_for_the_next_run(keeping: Keeping, folder: Path) -> None:
    execute(keeping.database, ALERTS, at=LONG_AGO)
    commented: list[int] = []

    def comment(rows: int) -> None:
        if rows < 100 and not commented:
            commented.append(rows)
            query(
                keeping.database,
                """INSERT INTO alert_history (alert_id, version, change, status, happened_at)
                SELECT min(id), 3, 'commented', 'resolved', now() FROM alerts""",
            )

    assert keeping.run(progress=comment).alerts < 60
    assert keeping.run().alerts > 0
    assert query(keeping.database, "SELECT count(*) FROM alerts")[0] == (0,)
    found = ask(folder, "SELECT count(*), count(DISTINCT id) FROM {alert_history}")
    assert found == [(121, 121)], "what was given up is not left beside"


def test_of_a_day_that_comes_back_only_what_is_new_is_archived(keeping: Keeping, folder: Path) -> None:
    """Retention was raised, rows were put back, and others came late."""
    before = stored(keeping.database, OLD_DAYS)
    keeping.run()
    put_back(keeping)
    query(keeping.database, "INSERT INTO sensor_readings (device_id, recorded_at, temperature) VALUES (1, %s, 5)", LATE)
    report = keeping.run()
    assert not report.errors
    assert keeping.days() == [YESTERDAY]
    assert keeping.files() == [(OLD_DAYS[0], "complete", A_DAY), (OLD_DAYS[0], "complete", 1), (OLD_DAYS[1], "complete", A_DAY)]
    assert len(archived(folder)) == len(before) + 1
    assert [rows for _, rows in keeping.restore()] == [A_DAY, 1, A_DAY]


def test_a_day_that_comes_back_as_it_was_needs_no_file(keeping: Keeping, folder: Path) -> None:
    before = stored(keeping.database, OLD_DAYS)
    keeping.run()
    put_back(keeping)
    assert not keeping.run().errors
    assert keeping.days() == [YESTERDAY]
    assert same(before, archived(folder))


def test_a_row_that_comes_back_and_says_something_else_is_for_a_person(keeping: Keeping) -> None:
    keeping.run()
    put_back(keeping)
    query(keeping.database, "UPDATE sensor_readings SET rpm = -1 WHERE recorded_at = %s AND device_id = 1", OLD_DAYS[0])
    assert "1 readings that contradict what the archive holds" in keeping.run().errors[0]
    assert OLD_DAYS[0] in keeping.days(), "nothing was dropped"


def put_back(keeping: Keeping) -> None:
    """The first of OLD_DAYS is restored, and copied into the table, while retention is longer."""
    keeping.restore()
    ensure_partitions(keeping.database.owner, 3, 0, TODAY)
    names = "device_id, temperature, humidity, rpm, recorded_at, received_at, extra"
    rows = f"SELECT {names} FROM restored_sensor_readings WHERE (recorded_at AT TIME ZONE 'UTC')::date = %s"
    query(keeping.database, f"INSERT INTO sensor_readings ({names}) {rows}", OLD_DAYS[0])


def test_damage_is_found(keeping: Keeping, folder: Path, tmp_path: Path) -> None:
    keeping.run()
    path = next((folder / f"table=sensor_readings/date={OLD_DAYS[0]}").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with psycopg.connect(keeping.database.owner, autocommit=True) as connection:
        uploads = Uploads(ObjectStore(keeping.url, None, 1), tmp_path, connection)
        with pytest.raises(ArchiveDamaged, match="is not what was put there"):
            uploads.read_back(list_files(connection)[0])
        path.unlink()
        with pytest.raises(ArchiveDamaged, match="is not there"):
            uploads.read_back(list_files(connection)[0])
