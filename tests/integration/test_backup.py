"""`factoryd backup` on a real cluster with pgBackRest: set up, back up, look, prove that it can be restored."""

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.backup_plant import BackupPlant, backup_plant, until

READINGS = """
    INSERT INTO sensor_readings (device_id, recorded_at, temperature)
    SELECT d.id, now() - n * interval '1 second', n FROM devices d, generate_series(1, 500) n"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackupPlant]:
    """A cluster that was never backed up."""
    with backup_plant(tmp_path_factory.mktemp("bare")) as plant:
        yield plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackupPlant]:
    """A cluster that archives, with readings, a full and an incremental backup."""
    with backup_plant(tmp_path_factory.mktemp("plant")) as plant:
        plant.set_up()
        plant.cluster.sql("INSERT INTO devices (device_id, name, type, location) VALUES ('a', 'a', 'press', 'hall')")
        plant.cluster.sql(READINGS)
        plant.good("run", "full")
        plant.good("run", "incr")
        yield plant


class TestInit:
    def test_says_what_it_would_do_and_does_nothing(self, bare: BackupPlant) -> None:
        answer = bare("init", "--admin-url", bare.cluster.url())
        assert answer.returncode == 0, answer.stderr
        assert f"pg1-path={bare.cluster.data}" in answer.stdout
        assert "ALTER SYSTEM SET \"archive_mode\" = 'on';  -- is 'off', after a restart" in answer.stdout
        assert bare.environment["FACTORYD_BACKUP__CIPHER_PASS"] not in answer.stdout + answer.stderr
        assert "repo1-cipher-pass=********" in answer.stdout
        assert "nothing was changed" in answer.stderr
        assert not bare.config.exists()
        assert "archive_mode" not in (bare.cluster.data / "postgresql.auto.conf").read_text()

    def test_waits_for_the_restart_and_then_proves_that_wal_arrives(self, bare: BackupPlant) -> None:
        first = bare("init", "--yes", "--admin-url", bare.cluster.url())
        assert (first.returncode, "restart PostgreSQL" in first.stderr) == (0, True), first.stderr
        assert stat.S_IMODE(bare.config.stat().st_mode) == 0o600
        again = bare("init", "--yes", "--admin-url", bare.cluster.url())
        assert "restart PostgreSQL" in again.stderr, "it still waits"
        assert "# PostgreSQL: unchanged" in again.stdout
        bare.cluster.stop()
        bare.cluster.start()
        last = bare("init", "--yes", "--admin-url", bare.cluster.url())
        assert "WAL arrives in every repository" in last.stderr
        assert f"{bare.config}: unchanged" in last.stdout
        assert list((bare.directory / "repo" / "archive").rglob("0000000100000000*.zst"))

    def test_does_not_overwrite_another_hand(self, bare: BackupPlant, tmp_path: Path) -> None:
        (tmp_path / "other.conf").write_text("[global]\n")
        bare.environment["FACTORYD_BACKUP__CONFIG_FILE"] = str(tmp_path / "other.conf")
        answer = bare("init", "--yes", "--admin-url", bare.cluster.url())
        bare.environment["FACTORYD_BACKUP__CONFIG_FILE"] = str(bare.config)
        assert (answer.returncode, "was not written by factoryd" in answer.stderr) == (1, True)
        assert (tmp_path / "other.conf").read_text() == "[global]\n"


class TestStatus:
    def test_has_every_backup_and_the_last_segment(self, plant: BackupPlant) -> None:
        found = plant.status()
        states = {job["job"]: job["state"] for job in found["jobs"]}
        assert states["backup_full"] == states["backup_incr"] == "good"
        assert [backup["kind"] for backup in found["backups"]] == ["full", "incr"]
        assert (found["wal"]["is_on"], found["wal"]["is_failing"]) == (True, False)
        assert found["wal"]["waiting_bytes"] < 64 << 20

    def test_tells_by_its_exit_code_that_something_is_too_old(self, plant: BackupPlant) -> None:
        plant.environment["FACTORYD_BACKUP__INCR_MAX_AGE_H"] = "0.0000001"
        answer = plant("status")
        del plant.environment["FACTORYD_BACKUP__INCR_MAX_AGE_H"]
        assert answer.returncode == 1
        assert "too old" in answer.stdout

    def test_knows_what_the_runs_have_recorded(self, plant: BackupPlant) -> None:
        rows = plant.cluster.sql("SELECT job, outcome, detail #>> '{repository_1,kind}' FROM job_runs WHERE job LIKE 'backup%'")
        assert sorted(rows) == [("backup_full", "done", "full"), ("backup_incr", "done", "incr")]


class TestDrill:
    def test_restores_checks_and_leaves_nothing(self, plant: BackupPlant, tmp_path: Path) -> None:
        out = plant.good("drill", "--directory", str(tmp_path), "-o", "json")
        assert json.loads(out)["checksums"] == "good"
        ((outcome, detail),) = plant.cluster.sql("SELECT outcome, detail FROM job_runs WHERE job = 'drill'")
        assert (outcome, detail["findings"], detail["rows"]["sensor_readings"]) == ("done", [], 500)
        assert detail["indexes"] > 100
        assert detail["backup"].endswith("I")
        assert list(tmp_path.iterdir()) == []
        states = {job["job"]: job["state"] for job in plant.status()["jobs"]}
        assert states["drill"] == "good"

    def test_says_what_a_target_beyond_the_archive_means(self, plant: BackupPlant, tmp_path: Path) -> None:
        for statement in ("ALTER SYSTEM SET archive_timeout = 0", "SELECT pg_reload_conf()"):
            plant.cluster.sql(statement)  # or the drill's own row could be archived in the midst of it
        until(lambda: plant.cluster.sql("SHOW archive_timeout") == [("0",)], lambda: plant.cluster.sql("SHOW archive_timeout"))
        ((now,),) = plant.cluster.sql("SELECT clock_timestamp()")
        answer = plant("drill", "--directory", str(tmp_path), "--target", now.isoformat())
        assert answer.returncode == 1
        assert "the archive ends before the target time" in answer.stderr
        assert list(tmp_path.iterdir()) == []
        ((error,),) = plant.cluster.sql("SELECT error FROM job_runs WHERE outcome = 'failed' AND job = 'drill'")
        assert "the archive ends before" in error

    def test_says_that_no_backup_is_old_enough(self, plant: BackupPlant) -> None:
        answer = plant("drill", "--target", (datetime.now(UTC) - timedelta(days=1)).isoformat())
        assert (answer.returncode, "status shows which backups there are" in answer.stderr) == (1, True)

    def test_sees_a_damaged_table(self, plant: BackupPlant, tmp_path: Path) -> None:
        """A page that was damaged before the backup: its checksum still fits nothing."""
        ((path,),) = plant.cluster.sql("SELECT pg_relation_filepath('daemon_state')")
        plant.cluster.stop()
        file = plant.cluster.data / path
        good = file.read_bytes()
        file.write_bytes(good[:200] + b"\xff" * 64 + good[264:])
        plant.cluster.start()
        try:
            plant("run", "full")
            answer = plant("drill", "--directory", str(tmp_path))
        finally:
            plant.cluster.stop()
            file.write_bytes(good)
            plant.cluster.start()
        assert answer.returncode == 1
        assert "table daemon_state" in answer.stderr


class TestVerify:
    def test_sees_a_damaged_file(self, plant: BackupPlant) -> None:
        assert "as it was written" in plant.good("verify")
        bundle = next((plant.directory / "repo" / "backup").rglob("bundle/1"))
        good = bundle.read_bytes()
        bundle.write_bytes(good[:1000] + b"\xff" * 16 + good[1016:])
        answer = plant("verify")
        bundle.write_bytes(good)
        assert (answer.returncode, "status: invalid" in answer.stderr) == (1, True), answer.stdout


def test_what_cannot_be_made_is_a_failed_run(plant: BackupPlant) -> None:
    plant.environment["FACTORYD_BACKUP__STANZA"] = "other"
    answer = plant("run", "incr")
    del plant.environment["FACTORYD_BACKUP__STANZA"]
    assert (answer.returncode, "pgbackrest backup" in answer.stderr) == (1, True)
    ((error,),) = plant.cluster.sql("SELECT error FROM job_runs WHERE job = 'backup_incr' AND outcome = 'failed'")
    assert error.startswith("repository 1: pgbackrest backup")


def test_others_backups_are_recorded(plant: BackupPlant) -> None:
    plant.good("record", "full", "--at", "2026-11-01T02:00Z", "--size", "1000")
    plant.good("record", "full", "--at", "2026-11-02T02:00Z", "--failed", "no space")
    rows = plant.cluster.sql("SELECT outcome, error, detail, finished_at::text FROM job_runs WHERE finished_at < '2026-11-03'")
    assert rows == [
        ("done", None, {"size_bytes": 1000}, "2026-11-01 02:00:00+00"),
        ("failed", "no space", {}, "2026-11-02 02:00:00+00"),
    ]


def test_a_copy_elsewhere_never_archives_and_a_restore_in_place_does(plant: BackupPlant, tmp_path: Path) -> None:
    assert "--archive-mode=off" in plant.good("restore", "--into", str(tmp_path / "copy"), "--print")
    in_place = plant.good("restore", "--into", str(plant.cluster.data), "--print")
    assert "--archive-mode" not in in_place
    assert "restore_command" not in in_place
    answer = plant("restore", "--into", str(tmp_path / "copy"), "--standby", "--primary", "host=x password=y", "--print")
    assert (answer.returncode, "could be read by everybody" in answer.stderr) == (2, True)
    refused = plant("restore", "--into", str(plant.cluster.data))
    assert refused.returncode == 1, "the cluster runs"
