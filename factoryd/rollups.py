"""Readings are rolled up a minute after they came; late ones repair their buckets. Beside the write path, never in its way."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from storage.rollups import RollerDeposed, RollupTable

log = structlog.get_logger(__name__)

MINUTE = timedelta(minutes=1)
SETTLING = timedelta(seconds=60)
"""A minute is rolled up when it has been over for so long; what comes later repairs it."""
AT_ONCE = timedelta(minutes=10)
"""Longest stretch of one transaction, when there is something to catch up with."""
RETRY_S = 15.0


class RollupMetrics:
    """How far the roll-ups are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.until = Gauge(
            "factoryd_rollup_until_timestamp_seconds", "Readings before this moment are rolled up.", registry=registry
        )
        self.repairs = Counter(
            "factoryd_rollup_repairs", "Marks of late readings whose buckets were made anew.", registry=registry
        )


class Rollups:
    """Moves the mark up to which readings are rolled up.

    Args:
        table: what is written.
        clock: aware UTC.
        move_mark: tells the writer of readings, between two batches, that older ones are late from now on.
        metrics: where to count.
    """

    def __init__(
        self,
        table: RollupTable,
        clock: Callable[[], datetime],
        move_mark: Callable[[datetime], Awaitable[None]],
        metrics: RollupMetrics,
    ) -> None:
        self._table, self._clock, self._move_mark, self._metrics = table, clock, move_mark, metrics
        self._until = self._due()

    async def load(self) -> None:
        """Takes over; before anything is received.

        Raises:
            DatabaseUnavailable: try again.
        """
        self._until = await self._table.take_over() or await self._table.oldest() or self._due()
        await self._move_mark(self._until)

    async def run(self) -> None:
        """Rolls up once a minute, until cancelled; what has piled up is caught up with at half speed."""
        while True:
            try:
                await self.catch_up()
                pause = MINUTE.total_seconds() - (self._clock().timestamp() % 60) + 1
            except ConnectionError as error:
                log.warning("readings_not_rolled_up", error=str(error), retry_in_s=RETRY_S)
                pause = RETRY_S
            except RollerDeposed:
                log.warning("rollups_left_to_another_daemon")
                return
            await asyncio.sleep(pause)

    async def catch_up(self) -> None:
        """Rolls up all that is due now.

        Raises:
            DatabaseUnavailable: try again.
            RollerDeposed: stop.
        """
        due = self._due()
        while self._until < due:
            began = asyncio.get_running_loop().time()
            until = min(self._until + AT_ONCE, due)
            await self._move_mark(until)
            await self._table.roll(self._until, until)
            self._until = until
            if until < due:
                await asyncio.sleep(asyncio.get_running_loop().time() - began)
        while repaired := await self._table.repair():
            self._metrics.repairs.inc(repaired)
        self._metrics.until.set(self._until.timestamp())

    def _due(self) -> datetime:
        return (self._clock() - SETTLING).replace(second=0, microsecond=0)
