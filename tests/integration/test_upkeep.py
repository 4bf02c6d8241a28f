"""Maintenance by the clock: in a process of its own, which ends with the daemon; and what metrics say of it."""

import asyncio
import math
import multiprocessing
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from config.settings import Settings
from factoryd.upkeep import Upkeep, UpkeepMetrics, _maintain
from storage.database import open_pool
from storage.partitions import ensure_partitions
from tests.integration.archiving import Keeping, fill
from tests.integration.conftest import BINARIES, Database
from tests.integration.writing import query

pytestmark = pytest.mark.parametrize("cluster", [max(BINARIES)], indirect=True)

DAY = datetime.now(UTC).date() - timedelta(days=5)
RUN_AT = datetime.now(UTC).replace(hour=2, minute=15, second=0, microsecond=0)


@pytest.fixture
def keeping(database: Database, tmp_path: Path) -> Keeping:
    ensure_partitions(database.owner, 6, 1, datetime.now(UTC).date())
    fill(database, [DAY])
    return Keeping(database, (tmp_path / "archive").as_uri(), spool=tmp_path / "spool")


def settings(keeping: Keeping, **changes: dict[str, object]) -> Settings:
    told: dict[str, dict[str, object]] = {
        "database": {"url": keeping.database.daemon, "owner_url": keeping.database.owner, "disk_bytes": 1 << 40},
        "retention": {"readings_days": 1, "run_at": "02:15"},
        "archive": {"url": keeping.url, "spool_directory": keeping.spool},
    }
    return Settings.model_validate({**told, **changes})


class Told:
    """Metrics, and a clock that begins so long after the time of a run, and goes on as ours does."""

    def __init__(self, after: timedelta = timedelta(seconds=-0.2)) -> None:
        self._after = after
        self.registry = CollectorRegistry()
        self.metrics = UpkeepMetrics(self.registry)
        self._began = datetime.now(UTC)

    def clock(self) -> datetime:
        return RUN_AT + self._after + (datetime.now(UTC) - self._began)

    def value(self, name: str) -> float:
        found = self.registry.get_sample_value(f"factoryd_{name}")
        assert found is not None
        return found


@asynccontextmanager
async def upkeep(keeping: Keeping, told: Told, **changes: dict[str, object]) -> AsyncIterator[None]:
    chosen = settings(keeping, **changes)
    async with open_pool(chosen.database) as pool:
        task = asyncio.create_task(Upkeep(chosen, pool, told.clock, told.metrics).run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def outcome(keeping: Keeping, expected: str) -> None:
    async with asyncio.timeout(20):
        while query(keeping.database, "SELECT outcome FROM job_runs WHERE job = 'maintenance'") != [(expected,)]:
            await asyncio.sleep(0.02)


async def test_it_runs_when_it_is_time(keeping: Keeping) -> None:
    told = Told()
    async with upkeep(keeping, told):
        await outcome(keeping, "done")
        assert DAY not in keeping.days()
        async with asyncio.timeout(20):
            while math.isnan(told.value("maintenance_age_seconds")):
                await asyncio.sleep(0.02)
    assert told.value("maintenance_failing") == 0
    assert told.value("archive_days_due") == 0
    assert told.value("disk_full_days") > 0
    assert multiprocessing.active_children() == []


async def test_a_run_that_was_missed_is_made_up_for(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factoryd.upkeep.AFTER_START", timedelta(seconds=0.1))
    told = Told(timedelta(hours=-3))
    async with upkeep(keeping, told):
        await outcome(keeping, "done")


async def test_a_run_that_was_not_missed_is_not_made_again(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factoryd.upkeep.AFTER_START", timedelta())
    query(keeping.database, "INSERT INTO job_runs (job, finished_at, outcome) VALUES ('maintenance', %s, 'done')", RUN_AT)
    told = Told(timedelta(hours=3))
    async with upkeep(keeping, told):
        async with asyncio.timeout(20):
            while math.isnan(told.value("maintenance_age_seconds")):
                await asyncio.sleep(0.02)
        assert multiprocessing.active_children() == []
    assert query(keeping.database, "SELECT count(*) FROM job_runs") == [(1,)]


async def test_a_failed_run_is_tried_again_within_the_hour(
    keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factoryd.upkeep.AFTER_FAILURE", timedelta(seconds=0.1))
    (tmp_path / "archive").write_text("in the way")
    async with upkeep(keeping, Told()):
        await outcome(keeping, "failed")
        (tmp_path / "archive").unlink()
        async with asyncio.timeout(20):
            while DAY in keeping.days():
                await asyncio.sleep(0.02)


async def test_it_stops_with_the_daemon(keeping: Keeping) -> None:
    told = Told()
    async with upkeep(keeping, told):
        await outcome(keeping, "running")
    assert multiprocessing.active_children() == []


async def test_a_failed_run_is_a_metric(keeping: Keeping, tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("in the way")
    told = Told()
    async with upkeep(keeping, told):
        await outcome(keeping, "failed")
        async with asyncio.timeout(20):
            while told.value("maintenance_failing") != 1:
                await asyncio.sleep(0.02)
    assert math.isnan(told.value("maintenance_age_seconds"))
    assert told.value("archive_days_due") > 0
    assert DAY in keeping.days()


async def test_never_leaves_it_to_a_timer(keeping: Keeping) -> None:
    told = Told()
    async with upkeep(keeping, told, retention={"readings_days": 1, "run_at": "never"}):
        async with asyncio.timeout(20):
            while not told.value("archive_days_due") > 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    assert query(keeping.database, "SELECT count(*) FROM job_runs") == [(0,)]


def test_the_process_ends_when_its_parent_is_gone(keeping: Keeping) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_maintain, args=(settings(keeping), os.getpid() + 1), daemon=True
    )
    process.start()
    process.join(20)
    assert process.exitcode == 1
