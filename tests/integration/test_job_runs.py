"""Runs of jobs are recorded whatever becomes of them, and the last good one is found."""

from datetime import UTC, datetime, timedelta

import pytest

from config.settings import DatabaseSettings
from storage.database import open_pool
from storage.job_runs import LOST, job_run, latest_runs, load_latest_runs, record_run
from tests.integration.command_line import rows
from tests.integration.conftest import Database

RUNS = "SELECT job, outcome, error, finished_at IS NOT NULL, detail FROM job_runs ORDER BY id"
AT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)


@pytest.fixture
def settings(database: Database) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": database.daemon})


def test_a_run_is_seen_while_it_runs_and_when_it_is_done(settings: DatabaseSettings, database: Database) -> None:
    with job_run(settings, "maintenance") as detail:
        assert rows(database.tools, RUNS) == [("maintenance", "running", None, False, {})]
        assert latest_runs(settings)["maintenance"].outcome == "running"
        detail.update(rows=7, at=AT)
    assert rows(database.tools, RUNS) == [("maintenance", "done", None, True, {"rows": 7, "at": str(AT)})]


def test_a_failed_run_says_why_and_does_not_hide_the_last_good_one(settings: DatabaseSettings) -> None:
    with job_run(settings, "verify") as detail:
        detail["files"] = 3
    with pytest.raises(ValueError, match="no\nsuch"), job_run(settings, "verify") as detail:  # noqa: PT012 - what is kept of it
        detail["files"] = 1
        raise ValueError("no\nsuch file")
    runs = latest_runs(settings)["verify"]
    assert (runs.outcome, runs.error, runs.detail) == ("failed", "no such file", {"files": 3})
    assert runs.done_at is not None
    assert runs.done_at < runs.started_at


def test_an_interrupted_run_is_a_failed_one(settings: DatabaseSettings) -> None:
    with pytest.raises(KeyboardInterrupt), job_run(settings, "drill"):
        raise KeyboardInterrupt
    assert (latest_runs(settings)["drill"].outcome, latest_runs(settings)["drill"].error) == ("failed", "KeyboardInterrupt")


def test_the_next_run_marks_lost_ones_of_its_own_job(settings: DatabaseSettings, database: Database) -> None:
    for job in ("drill", "verify"):
        rows(database.daemon, "INSERT INTO job_runs (job) VALUES (%s)", job)
    with job_run(settings, "drill"):
        pass
    found = [row[:4] for row in rows(database.tools, RUNS)]
    assert found == [("drill", "failed", LOST, True), ("verify", "running", None, False), ("drill", "done", None, True)]


async def test_what_others_did_is_recorded_and_the_daemon_reads_the_same(settings: DatabaseSettings) -> None:
    record_run(settings, "backup_full", at=AT, error=None, detail={"size_bytes": 5})
    record_run(settings, "backup_full", at=AT + timedelta(days=7), error="no space", detail={})
    runs = latest_runs(settings)
    assert (runs["backup_full"].done_at, runs["backup_full"].error, runs["backup_full"].detail) == (
        AT,
        "no space",
        {"size_bytes": 5},
    )
    assert "drill" not in runs
    async with open_pool(settings) as pool:
        assert await load_latest_runs(pool) == runs
