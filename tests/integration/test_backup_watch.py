"""The daemon's figures on backups, from the runs of jobs on a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from math import isnan

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from config.settings import DatabaseSettings
from factoryd.backup_watch import BackupMetrics, BackupWatch
from storage.database import Pool, open_pool
from storage.job_runs import record_run
from storage.wal_archiving import WalArchiving
from tests.integration.conftest import Database

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Watching:
    def __init__(self, settings: DatabaseSettings, pool: Pool) -> None:
        self.settings, self.registry = settings, CollectorRegistry()
        self.metrics = BackupMetrics(self.registry)
        self.watch = BackupWatch(pool, lambda: NOW, self.metrics)

    def value(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"factoryd_{name}", labels)
        assert value is not None, name
        return value


@pytest.fixture
async def watching(database: Database) -> AsyncIterator[Watching]:
    settings = DatabaseSettings.model_validate({"url": database.daemon})
    async with open_pool(settings) as pool:
        yield Watching(settings, pool)


async def test_what_never_happened_has_no_age(watching: Watching) -> None:
    await watching.watch.look()
    names = ("drill_age_seconds", "wal_archive_failing", "wal_archive_age_seconds")
    ages = [watching.value("backup_age_seconds", kind=kind) for kind in ("full", "incr")]
    assert all(map(isnan, [*ages, *map(watching.value, names)]))


async def test_ages_are_those_of_the_last_good_runs(watching: Watching) -> None:
    for job, hours, error in (("full", 50, None), ("full", 1, "no space"), ("incr", 60, None)):
        record_run(
            watching.settings,
            "backup_full" if job == "full" else "backup_incr",
            at=NOW - timedelta(hours=hours),
            error=error,
            detail={},
        )
    record_run(watching.settings, "drill", at=NOW - timedelta(days=2), error=None, detail={})
    await watching.watch.look()
    assert watching.value("backup_age_seconds", kind="full") == 50 * 3600
    assert watching.value("backup_age_seconds", kind="incr") == 50 * 3600, "a full one is as good"
    assert watching.value("drill_age_seconds") == 2 * 86400


async def test_archiving_that_fails_is_shown_and_forgotten_when_it_is_off(watching: Watching) -> None:
    for failing in (True, False):
        watching.metrics.show_wal(WalArchiving(True, None, None, None, failing, 7.0, None))
        assert watching.value("wal_archive_failing") == failing
        assert watching.value("wal_archive_age_seconds") == 7
    watching.metrics.show_wal(WalArchiving(False, None, None, None, False, 7.0, None))
    assert isnan(watching.value("wal_archive_failing"))


async def test_a_database_that_is_away_is_said_once(watching: Watching) -> None:
    await watching.watch._pool.close()
    with capture_logs() as logs:
        await watching.watch.look()
        await watching.watch.look()
    assert [entry["event"] for entry in logs] == ["backups_not_looked_at"]
