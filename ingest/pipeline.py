"""Steps 3 to 7 of a reading's walk: waiting batches → device look-up → one transaction → acknowledgement.

A batch is due as soon as the writer is free (natural group commit): one message at low load, thousands at high load. Nothing
is acknowledged before its transaction is committed, and a failed batch is tried again as it is, still unacknowledged: the
receive maximum holds the broker, and the broker queues.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from time import perf_counter
from typing import Protocol

import structlog

from config.settings import IngestSettings
from ingest.batch import Batch
from ingest.devices import DeviceRow, Registry
from ingest.flood import Refusals
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.reading import Quarantined, Verdict
from mqtt.connection import Deliveries, acknowledge_all

log = structlog.get_logger(__name__)

RETRY_MAX_S = 5.0
IDLE_PING_S = 1.0
LOADED = 200
"""Messages in a batch from which on we count as loaded, and linger for a larger one."""


class Committed(Protocol):
    """What became of a batch's readings."""

    stored: int
    merged: int
    duplicate: int
    refused: Refusals


class BatchWriter(Protocol):
    """Stores a batch in one transaction; raises ConnectionError for "try again"."""

    async def commit(self, batch: Batch) -> Committed:
        """Stores all of it or nothing."""
        ...

    async def ping(self) -> None:
        """Called when idle: raises if nothing could be committed any more."""
        ...


class DeviceFinder(Protocol):
    """Asks the database for devices that the cache does not know."""

    async def find(self, names: Sequence[str]) -> Iterable[DeviceRow]:
        """Returns those that exist."""
        ...

    async def register(self, names: Sequence[str]) -> Iterable[DeviceRow]:
        """Creates and returns them."""
        ...


class Backpressure(Protocol):
    """The telemetry receiver, as far as it is held and let go."""

    @property
    def paused(self) -> bool:
        """True while held."""
        ...

    def pause(self) -> None:
        """Holds it."""
        ...

    def resume(self) -> None:
        """Lets it go."""
        ...


Listener = Callable[[Batch, Sequence[Quarantined]], None]
"""Told about every committed batch and what it refused: presence and notices to devices."""


class Pipeline:
    """Owns what is received and not yet acknowledged."""

    def __init__(
        self,
        settings: IngestSettings,
        intake: Intake,
        registry: Registry,
        writer: BatchWriter,
        finder: DeviceFinder,
        metrics: IngestMetrics,
        clock: Callable[[], datetime],
        on_committed: Listener,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._registry = registry
        self._writer = writer
        self._finder = finder
        self._metrics = metrics
        self._clock = clock
        self._on_committed = on_committed
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._in_commit: Batch | None = None
        self._loaded = False
        self.source: Backpressure | None = None

    def deliver(self, deliveries: Deliveries) -> None:
        """Takes messages as they come off the socket; never blocks."""
        self._intake.take(deliveries)
        if self.source is not None and self._intake.is_full(self._in_commit):
            self.source.pause()
        self._wake()

    def wake(self) -> None:
        """Told that something other than a delivery waits: a replay."""
        self._wake()

    @property
    def lag_s(self) -> float:
        """Age of the oldest unacknowledged message, in seconds."""
        batch = self._in_commit or (self._intake.waiting[0] if self._intake.waiting else None)
        if batch is None or batch.oldest is None:
            return 0.0
        return max(0.0, (self._clock() - batch.oldest).total_seconds())

    @property
    def in_flight(self) -> int:
        """Readings received and not yet settled."""
        waiting = sum(batch.readings for batch in self._intake.waiting)
        return waiting + (self._in_commit.readings if self._in_commit else 0)

    async def drain(self) -> None:
        """Returns when everything that was delivered is committed and acknowledged."""
        await self._drained.wait()

    def abandon(self) -> None:
        """Accounts for what is in flight when leadership is lost: it stays with the broker."""
        self._metrics.readings.labels(Verdict.RETURNED).inc(self.in_flight)
        self._intake.waiting.clear()
        self._in_commit = None

    async def run(self) -> None:
        """Commits batches for ever. Ends only by cancellation, or by an error that no retry can mend."""
        while True:
            await self._next()
            if self._loaded and self._settings.linger_ms:
                await asyncio.sleep(self._settings.linger_ms / 1000)
            batch = self._in_commit = self._intake.waiting.popleft()
            batch.close()  # from here on, new messages go to the next one
            if not self._intake.waiting:
                self._arrived.clear()
            self._loaded = batch.messages >= LOADED
            await self._settle(batch)
            self._in_commit = None
            if not self._intake.waiting:
                self._drained.set()

    async def _next(self) -> None:
        while not self._arrived.is_set():
            try:
                async with asyncio.timeout(IDLE_PING_S):
                    await self._arrived.wait()
            except TimeoutError:
                await self._writer.ping()

    def _wake(self) -> None:
        if self._intake.waiting:
            self._drained.clear()
            self._arrived.set()

    async def _settle(self, batch: Batch) -> None:
        started = perf_counter()
        committed = await self._retried(batch)
        acknowledge_all(batch.deliveries)
        if self.source is not None and self.source.paused and not self._intake.is_full(None):
            self.source.resume()
        self._count(batch, committed, perf_counter() - started)
        self._on_committed(batch, committed.refused.kept)

    async def _retried(self, batch: Batch) -> Committed:
        attempt = 0
        while True:
            try:
                await self._look_up_strangers(batch)
                return await self._writer.commit(batch)
            except ConnectionError as error:
                attempt += 1
                self._metrics.retries.inc()
                if attempt in {1, 10} or attempt % 100 == 0:
                    log.warning("batch_not_committed", attempt=attempt, error=str(error), readings=batch.readings)
                await asyncio.sleep(random.uniform(0, min(RETRY_MAX_S, 0.05 * 2 ** min(attempt, 8))))  # noqa: S311

    async def _look_up_strangers(self, batch: Batch) -> None:
        """Asks the database once per batch; with auto_register, who is still unknown becomes a device."""
        if not batch.strangers:
            return
        names = [name for name in batch.strangers if name]
        self._registry.load(await self._finder.find(names))
        if self._settings.auto_register:
            unknown = [name for name in names if name not in self._registry.by_name]
            if unknown:
                self._registry.load(await self._finder.register(unknown))
                log.info("devices_registered", count=len(unknown), first=unknown[0])
        self._intake.retake_strangers(batch)

    def _count(self, batch: Batch, committed: Committed, seconds: float) -> None:
        metrics, refused = self._metrics, committed.refused
        metrics.readings.labels(Verdict.STORED).inc(committed.stored)
        metrics.readings.labels(Verdict.MERGED).inc(committed.merged)
        metrics.readings.labels(Verdict.DUPLICATE).inc(committed.duplicate)
        metrics.readings.labels(Verdict.QUARANTINED).inc(len(refused))
        for quarantined in refused.kept:
            metrics.quarantined.labels(quarantined.reason.value).inc()
        for (_, reason, _), flood in refused.floods.items():
            metrics.quarantined.labels(reason.value).inc(flood.count)
            metrics.flooded.inc(flood.count)
        metrics.batch_readings.observe(batch.readings)
        metrics.commit_seconds.observe(seconds)
        if batch.oldest is not None:
            delay = (self._clock() - batch.oldest).total_seconds()
            metrics.delay_seconds.observe(max(0.0, delay))
        log.debug("batch_committed", messages=batch.messages, stored=committed.stored, refused=len(refused), seconds=seconds)
