"""Everything on the machine is lost: cluster, local repository, configuration. What is left is off-site, and the settings."""

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup_plant import BackupPlant, backup_plant, until
from tests.s3_tls import ACCESS, BUCKET, SECRET, tls_s3

FINGERPRINT = "SELECT count(*), sum(hashtextextended(r::text, 0))::text FROM devices r"
DEVICES = """
    INSERT INTO devices (device_id, name, type, location) SELECT 'd' || n, 'd', 'press', 'hall' FROM generate_series({}) n"""


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[BackupPlant]:
    """A cluster with a local repository and one off-site."""
    (tmp_path / "s3").mkdir()
    (tmp_path / "cluster").mkdir()
    with tls_s3(tmp_path / "s3") as s3:
        environment = {
            "FACTORYD_BACKUP__S3_URL": f"s3://{BUCKET}/site",
            "FACTORYD_BACKUP__S3_ENDPOINT": f"localhost:{s3.port}",
            "FACTORYD_BACKUP__S3_CA_FILE": str(s3.ca_file),
            "FACTORYD_BACKUP__S3_PATH_STYLE": "true",
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        with backup_plant(tmp_path / "cluster", **environment) as plant:
            plant.set_up()
            yield plant


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_is_off_site_alone_brings_everything_back(plant: BackupPlant, tmp_path: Path) -> None:
    cluster = plant.cluster
    cluster.sql(DEVICES.format("1, 100"))
    out = plant.good("run", "full")
    assert "repository 1: " in out
    assert "repository 2: " in out
    cluster.sql(DEVICES.format("101, 150"))
    plant.good("run", "incr")
    cluster.sql(DEVICES.format("151, 170"))  # only in WAL
    before = cluster.sql(FINGERPRINT)
    cluster.archived()
    assert SECRET not in plant.good("init", "--admin-url", cluster.url())

    cluster.destroy()
    shutil.rmtree(plant.directory / "repo")
    shutil.rmtree(plant.directory / "spool")
    plant.config.unlink()
    files = [path for path in (tmp_path / "s3" / "objects").rglob("*") if path.is_file()]
    assert {path.read_bytes()[:8] for path in files} == {b"Salted__"}, "encrypted before it left"

    plant.follow("After a total loss", DATA=str(cluster.data))
    assert stat.S_IMODE(plant.config.stat().st_mode) == 0o600
    plant.good("restore", "--into", str(cluster.data))
    cluster.start()
    until(lambda: cluster.sql("SELECT pg_is_in_recovery()") == [(False,)], cluster.log.read_text)
    assert cluster.sql(FINGERPRINT) == before == [(170, before[0][1])]

    plant.good("init", "--yes", "--admin-url", cluster.url())
    plant.good("run", "full")
    kinds = [(backup["repository"], backup["kind"]) for backup in plant.status()["backups"]]
    assert kinds == [(2, "full"), (2, "incr"), (1, "full"), (2, "full")]


def test_one_repository_that_fails_does_not_keep_the_other_from_its_backup(plant: BackupPlant, tmp_path: Path) -> None:
    shutil.move(plant.directory / "repo", plant.directory / "away")
    answer = plant("run", "full")
    assert answer.returncode == 1
    assert "repository 1: pgbackrest backup" in answer.stderr
    assert "repository 2: 2" in answer.stdout
    assert plant.cluster.sql("SELECT outcome, detail ? 'repository_2', detail ? 'repository_1' FROM job_runs") == [
        ("failed", True, False)
    ]
