"""Housekeeping by the clock: partitions of readings are made ahead of time; what is past its time is deleted."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from config.settings import Settings
from storage.alert_outbox import OutboxTable
from storage.database import Pool
from storage.maintenance import SchemaError
from storage.partitions import ensure_partitions, partition_days_ahead
from storage.retention import (
    delete_old_gaps,
    delete_old_quarantine,
    delete_old_rollups,
    delete_old_sequences,
    partition_names,
)

log = structlog.get_logger(__name__)

PERIOD = timedelta(hours=1)
AFTER_MIDNIGHT = timedelta(seconds=5)
RETRY_S = 60.0
CHUNK = 1_000
"""Rows deleted in one transaction."""
CHUNK_PAUSE_S = 0.1


class HousekeepingMetrics:
    """Whether there is room for tomorrow's readings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.days_ahead = Gauge(
            "factoryd_partition_days_ahead",
            "Days after today (UTC) that have a partition, up to the first gap; -1 if today has none.",
            registry=registry,
        )
        self.failures = Counter("factoryd_partition_failures", "Attempts to make partitions that failed.", registry=registry)
        self.deleted = Counter("factoryd_quarantine_deleted", "Quarantined messages deleted by age.", registry=registry)


class Housekeeping:
    """Runs beside the write path and never in its way.

    Args:
        settings: database.owner_url, retention.
        pool: the daemon's own connections.
        clock: aware UTC.
        metrics: where to count.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        clock: Callable[[], datetime],
        metrics: HousekeepingMetrics,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._outbox = OutboxTable(pool)
        self._clock = clock
        self._metrics = metrics
        self._hurried = asyncio.Event()

    async def make_partitions(self) -> bool:
        """Makes the missing partitions, if we have the owner's URL, and counts those ahead; False: try again soon."""
        try:
            made = await self._make()
            names = await partition_names(self._pool)
        except ConnectionError as error:
            self._metrics.failures.inc()
            log.warning("partitions_not_made", error=str(error), retry_in_s=RETRY_S)
            return False
        except SchemaError as error:  # a person must act; there may be partitions for days
            self._metrics.failures.inc()
            log.error("partitions_not_made", error=str(error))
            return True
        if made:
            log.info("partitions_made", count=len(made), first=made[0], last=made[-1])
        self._metrics.days_ahead.set(partition_days_ahead(names, self._clock().date()))
        return True

    async def run(self) -> None:
        """Partitions now, hourly and after each midnight UTC; retention now and once a day. Until cancelled."""
        if self._settings.database.owner_url is None:
            log.warning("partitions_left_to_others", next="set database.owner_url, or run factoryd migrate daily")
        cleaned = None
        while True:
            done = await self.make_partitions()
            if cleaned != self._clock().date() and await self.delete_old():
                cleaned = self._clock().date()
            self._hurried.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_to_next(self._clock()) if done else RETRY_S):
                    await self._hurried.wait()

    def hurry(self) -> None:
        """A partition is missed now."""
        self._hurried.set()

    async def delete_old(self) -> bool:
        """Deletes rows past their time: quarantine, sequences, roll-ups, gaps, published alerts; False: try again later."""
        before, total = self._clock() - timedelta(days=self._settings.retention.quarantine_days), 0
        try:
            while count := await delete_old_quarantine(self._pool, before, CHUNK):
                total += count
                self._metrics.deleted.inc(count)
                await asyncio.sleep(CHUNK_PAUSE_S)
            oldest = self._clock() - timedelta(days=self._settings.retention.readings_days)
            streams = await delete_old_sequences(self._pool, oldest)
            rollups, forgotten = 0, self._clock() - timedelta(days=self._settings.retention.rollups_days)
            while count := await delete_old_rollups(self._pool, forgotten, CHUNK):
                rollups += count
                await asyncio.sleep(CHUNK_PAUSE_S)
            noticed, gaps = self._clock() - timedelta(days=self._settings.retention.gaps_days), 0
            while count := await delete_old_gaps(self._pool, noticed, CHUNK):
                gaps += count
                await asyncio.sleep(CHUNK_PAUSE_S)
            published = 0
            while count := await self._outbox.delete_old(self._clock(), CHUNK):
                published += count
                await asyncio.sleep(CHUNK_PAUSE_S)
        except ConnectionError as error:
            log.warning("old_rows_not_deleted", error=str(error), deleted=total)
            return False
        if streams:
            log.info("sequences_deleted", count=streams)
        if rollups:
            log.info("rollups_deleted", count=rollups, before=forgotten.isoformat())
        if gaps:
            log.info("sequence_gaps_deleted", count=gaps, noticed_before=noticed.isoformat())
        if published:
            log.info("published_alerts_deleted", count=published)
        if total:
            log.info("quarantine_deleted", count=total, received_before=before.isoformat())
        return True

    async def _make(self) -> list[str]:
        owner_url, retention = self._settings.database.owner_url, self._settings.retention
        if owner_url is None:
            return []
        return await asyncio.to_thread(
            ensure_partitions,
            owner_url.get_secret_value(),
            retention.readings_days,
            retention.partitions_ahead_days,
            self._clock().date(),
        )


def seconds_to_next(now: datetime) -> float:
    """Returns the time to the next run: an hour, or shortly after midnight UTC if that comes first."""
    midnight = datetime.combine(now.date() + timedelta(days=1), time(tzinfo=UTC)) + AFTER_MIDNIGHT
    return (min(now + PERIOD, midnight) - now).total_seconds()
