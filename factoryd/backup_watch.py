"""How old the backups and the last drill are, and whether WAL is archived: read once a minute, for metrics and their alerts."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from math import nan

import structlog
from prometheus_client import CollectorRegistry, Gauge

from storage.database import Pool
from storage.job_runs import LatestRuns, load_latest_runs
from storage.wal_archiving import WalArchiving, load_wal_archiving

log = structlog.get_logger(__name__)

PERIOD_S = 60.0


class BackupMetrics:
    """What is known of the backups; NaN: nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.backup_age = Gauge(
            "factoryd_backup_age_seconds",
            "Since the last good full backup, or the last good backup of any kind (incr); NaN: there is none.",
            ["kind"],
            registry=registry,
        )
        self.drill_age = Gauge(
            "factoryd_drill_age_seconds", "Since the last good recovery drill; NaN: there was none.", registry=registry
        )
        self.wal_failing = Gauge(
            "factoryd_wal_archive_failing",
            "1: the last attempt to archive WAL failed; NaN: archiving is off.",
            registry=registry,
        )
        self.wal_age = Gauge(
            "factoryd_wal_archive_age_seconds", "Since a segment of WAL was archived; NaN: archiving is off.", registry=registry
        )
        for gauge in (self.backup_age.labels("full"), self.backup_age.labels("incr"), self.drill_age):
            gauge.set(nan)
        self.show_wal(None)

    def show_runs(self, runs: Mapping[str, LatestRuns], now: datetime) -> None:
        """Takes over what the runs of jobs say."""
        ages = {job: (now - run.done_at).total_seconds() for job, run in runs.items() if run.done_at is not None}
        full = ages.get("backup_full", nan)
        self.backup_age.labels("full").set(full)
        self.backup_age.labels("incr").set(
            min((ages[job] for job in ("backup_full", "backup_incr") if job in ages), default=nan)
        )
        self.drill_age.set(ages.get("drill", nan))

    def show_wal(self, wal: WalArchiving | None) -> None:
        """Takes over what PostgreSQL says of archiving; None: not known."""
        known = wal is not None and wal.is_on
        self.wal_failing.set(float(wal.is_failing) if wal and known else nan)
        self.wal_age.set(wal.age_s if wal and known else nan)


class BackupWatch:
    """Reads while we lead."""

    def __init__(self, pool: Pool, clock: Callable[[], datetime], metrics: BackupMetrics) -> None:
        self._pool, self._clock, self._metrics = pool, clock, metrics
        self._known = True

    async def look(self) -> None:
        """Reads once; with the database away the figures stay as they were, and grow old with the alerts on that."""
        try:
            self._metrics.show_runs(await load_latest_runs(self._pool), self._clock())
            self._metrics.show_wal(await load_wal_archiving(self._pool))
        except ConnectionError as error:
            if self._known:
                log.warning("backups_not_looked_at", error=str(error))
            self._known = False
        else:
            self._known = True

    async def run(self) -> None:
        """Reads now and once a minute. Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)
