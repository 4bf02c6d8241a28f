"""Maintenance by the clock: once a day, in a process of its own, so that neither its memory nor its work is in ingest's way."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Gauge

from config.settings import Settings
from factoryd.logs import configure_logging
from storage.archive_due import next_run
from storage.database import Pool
from storage.job_runs import LatestRuns, load_latest_runs
from storage.maintenance_status import maintenance_status

log = structlog.get_logger(__name__)

NICENESS = 19
LOOK_S = 60.0
"""Metrics are read anew this often."""
PARENT_POLL_S = 1.0
AFTER_START = timedelta(minutes=10)
"""A run that was missed, because no daemon was up, is made up for when we have been up for so long."""
AFTER_FAILURE = timedelta(hours=1)
MISSED_AFTER = timedelta(hours=25)


class UpkeepMetrics:
    """Whether what is past its time goes where it should."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            made = Gauge(f"factoryd_{name}", text, registry=registry)
            made.set(float("nan"))
            return made

        self.age = gauge("maintenance_age_seconds", "Since the last run of maintenance that went well; NaN: none did.")
        self.failing = gauge("maintenance_failing", "1 if the last run of maintenance failed; NaN: there was none.")
        self.days_due = gauge("archive_days_due", "Days of readings past their time that are still in the database.")
        self.rows_due = gauge("archive_rows_due", "Alerts and deployments past their time that are still in the database.")
        self.disk_days = gauge("disk_full_days", "Until the database's disk is full; +Inf: it does not grow; NaN: unknown.")


class Upkeep:
    """Starts maintenance once a day, and tells the metrics how things stand.

    Args:
        settings: of everything: the other process gets them.
        pool: the daemon's own connections.
        clock: aware UTC.
        metrics: where to tell.
    """

    def __init__(self, settings: Settings, pool: Pool, clock: Callable[[], datetime], metrics: UpkeepMetrics) -> None:
        self._settings, self._pool, self._clock, self._metrics = settings, pool, clock, metrics

    async def run(self) -> None:
        """Until cancelled; maintenance that is at work then is stopped, and goes on with the next run."""
        settings, now = self._settings, self._clock()
        due = next_run(now, settings.retention.run_at)
        if settings.database.owner_url is None or settings.archive.url is None:
            due = None
        last = await self._look()
        if due is not None and (last is None or last.done_at is None or now - last.done_at > MISSED_AFTER):
            due = min(due, now + AFTER_START)
        while True:
            if due is not None and self._clock() >= due:
                good = await self._maintain()
                due = next_run(self._clock(), settings.retention.run_at)
                if due is not None and not good:
                    due = min(due, self._clock() + AFTER_FAILURE)
            else:
                left = (due - self._clock()).total_seconds() if due is not None else LOOK_S
                await asyncio.sleep(max(0.0, min(LOOK_S, left)))
            await self._look()

    async def _look(self) -> LatestRuns | None:
        metrics, now = self._metrics, self._clock()
        try:
            last = (await load_latest_runs(self._pool)).get("maintenance")
            found = await asyncio.to_thread(maintenance_status, self._settings, now)
        except ConnectionError as error:
            log.warning("maintenance_status_not_read", error=str(error))
            return None
        if last is not None:
            metrics.failing.set(last.outcome == "failed")
            if last.done_at is not None:
                metrics.age.set((now - last.done_at).total_seconds())
        metrics.days_due.set(found.days_due)
        metrics.rows_due.set(found.alerts_due + found.deployments_due)
        days = found.disk.days_until_full
        metrics.disk_days.set(float("nan") if days is None else days)
        return last

    async def _maintain(self) -> bool:
        process = multiprocessing.get_context("spawn").Process(
            target=_maintain, args=(self._settings, os.getpid()), name="factoryd maintenance", daemon=True
        )
        await asyncio.to_thread(process.start)
        try:
            await _ended(process.sentinel)
        finally:
            process.terminate()
            process.join()
        if process.exitcode:
            log.error("maintenance_failed", exit_code=process.exitcode, next="see factoryd maintenance status")
        return process.exitcode == 0


async def _ended(sentinel: int) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sentinel)


def _maintain(settings: Settings, parent: int) -> None:
    """The other process: ends with the daemon, whatever becomes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is for the daemon, which then ends us
    configure_logging(settings.log)
    step_back()
    _end_with(parent)
    from storage.recorded_maintenance import run_recorded  # noqa: PLC0415 - Arrow's libraries are not for the daemon's memory

    report = run_recorded(settings)
    raise SystemExit(1 if report.errors else 0)


def step_back() -> None:
    """Lets everyone else go first; a sandbox that does not allow to ask for that (`@resources`) is no reason to end."""
    try:
        os.nice(NICENESS)
    except OSError as error:
        log.info("priority_not_lowered", error=str(error))


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
