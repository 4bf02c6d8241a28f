"""kill -9 at each step of the archive's pipeline and of a restore, then run again: no row lost, none twice, no file left."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from storage.archive_uploads import Uploads
from storage.objects import ObjectStore
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
from tests.integration.conftest import BINARIES, Database
from tests.integration.writing import query

pytestmark = pytest.mark.parametrize("cluster", [max(BINARIES)], indirect=True)

READINGS = "storage.archive_readings:"
UPLOADS = "storage.archive_uploads:"
ROWS = "storage.archive_rows:"
# After a step, and so before the next; before it only where both are in one transaction.
STEPS = [
    (f"{READINGS}seal", 1, "before"),
    (f"{READINGS}seal", 2, "after"),
    (f"{READINGS}count_rows", 1, "after"),
    ("storage.maintenance_run:finish_day", 1, "after"),
    (f"{READINGS}export", 1, "after"),
    (f"{UPLOADS}intend", 1, "after"),
    (f"{UPLOADS}ObjectStore.put", 1, "after"),
    (f"{UPLOADS}ObjectStore.fetch", 2, "after"),
    (f"{UPLOADS}Uploads.read_back", 1, "after"),
    (f"{UPLOADS}Uploads._put_manifest", 1, "after"),
    (f"{UPLOADS}mark_verified", 1, "after"),
    (f"{READINGS}detach", 1, "after"),
    (f"{READINGS}mark_complete", 1, "before"),
    (f"{READINGS}mark_complete", 1, "after"),
    (f"{ROWS}export", 2, "after"),
    (f"{UPLOADS}intend", 4, "after"),
    (f"{UPLOADS}mark_verified", 3, "after"),
    (f"{UPLOADS}mark_verified", 4, "after"),
    (f"{ROWS}mark_complete", 1, "before"),
    (f"{ROWS}mark_complete", 1, "after"),
    (f"{ROWS}RowsArchive._delete", 1, "after"),
]
RESTORE_STEPS = [
    ("storage.archive_restore:_make_side", 1, "after"),
    ("storage.archive_uploads:Uploads.fetch", 1, "after"),
    ("storage.archive_restore:as_binary", 2, "before"),
    ("storage.archive_restore:copy_file", 1, "after"),
    ("storage.archive_restore:_restore_file", 1, "after"),
    ("storage.archive_restore:_restore_file", 2, "after"),
]
Step = tuple[str, int, str]


def named(steps: list[Step]) -> list[str]:
    return [f"{when} {step.rpartition(':')[2]} {nth}" for step, nth, when in steps]


@pytest.fixture
def keeping(database: Database, tmp_path: Path) -> Keeping:
    fill(database)
    for script in (ALERTS, DEPLOYMENTS):
        execute(database, script, at=LONG_AGO)
    return Keeping(database, (tmp_path / "archive").as_uri(), spool=tmp_path / "spool")


def killed(keeping: Keeping, job: str, step: str, when: str, nth: int) -> None:
    """Runs a job in a process of its own, which must end by its own hand at that step."""
    told = {
        "job": job,
        "owner": keeping.database.owner,
        "url": keeping.url,
        "endpoint": keeping.endpoint,
        "spool": str(keeping.spool),
        "step": step,
        "when": when,
        "nth": nth,
    }
    command = [sys.executable, "-m", "tests.integration.dying_archive", json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


@pytest.mark.parametrize(("step", "nth", "when"), STEPS, ids=named(STEPS))
def test_a_killed_run_is_gone_on_with(step: str, nth: int, when: str, keeping: Keeping, tmp_path: Path) -> None:
    folder, before = tmp_path / "archive", stored(keeping.database, OLD_DAYS)
    alerts = query(keeping.database, "SELECT id FROM alerts ORDER BY id")
    killed(keeping, "maintenance", step, when, nth)
    report = keeping.run()
    assert not report.errors
    assert stored(keeping.database, OLD_DAYS) == []
    assert same(before, archived(folder)), "no row lost, none twice"
    assert ask(folder, "SELECT id FROM {alerts} ORDER BY id") == alerts
    assert ask(folder, "SELECT count(*), count(DISTINCT id) FROM {alert_history}") == [(120, 120)]
    assert ask(folder, "SELECT count(*), count(DISTINCT id) FROM {ota_deployment_events}") == [(30, 30)]
    assert query(keeping.database, "SELECT count(*) FROM alerts UNION ALL SELECT count(*) FROM ota_deployments") == [(0,), (0,)]
    assert query(keeping.database, "SELECT DISTINCT state FROM archive_files") == [("complete",)]
    assert list((tmp_path / "spool").iterdir()) == [], "nothing is left in the spool"
    with psycopg.connect(keeping.database.owner, autocommit=True) as connection:
        assert list(Uploads(ObjectStore(keeping.url, None, 1), tmp_path, connection).orphans()) == []
    leftover = "SELECT count(*) FROM pg_constraint WHERE conname = 'factoryd_sealed'"
    assert query(keeping.database, leftover) == [(0,)], "no day is left half-way"


@pytest.mark.parametrize(("step", "nth", "when"), RESTORE_STEPS, ids=named(RESTORE_STEPS))
def test_a_killed_restore_is_gone_on_with(step: str, nth: int, when: str, keeping: Keeping, tmp_path: Path) -> None:
    before = stored(keeping.database, OLD_DAYS)
    keeping.run()
    killed(keeping, "restore", step, when, nth)
    restored = keeping.restore()
    assert [rows for _, rows in restored] == [A_DAY, A_DAY]
    assert stored(keeping.database, OLD_DAYS, "restored_sensor_readings") == before
