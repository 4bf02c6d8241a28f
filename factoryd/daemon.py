"""The composition root: one straight line from settings to a running daemon. The one place where features meet.

Here is what lives as long as the process: metrics, HTTP, the pool, the stand for leadership. `factoryd.active` is what lives
while we lead. Order of start: metrics → HTTP → pool → schema → leadership → all state → broker; order of end: the reverse.
"""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry

from config.settings import Settings
from console.database_watch import watch_database
from console.headroom import QueueHeadroom
from console.health import Health
from console.heartbeat import Heartbeat
from console.http import HttpAddress, serve_http
from console.metrics import HealthCollector, installed_version, metric_total, register_process_metrics
from factoryd.active import Active, Metrics
from factoryd.notify import Notifier, Signs, feed_watchdog
from factoryd.voice import Voice
from mqtt.publisher import Publisher
from storage.database import DatabaseUnavailable, Pool, open_pool, probe_writable
from storage.leader import LeadershipLost, leadership
from storage.migrate import check_schema
from storage.waiting import Waiting

log = structlog.get_logger(__name__)

DRAIN_SHARE = 0.8
"""Of shutdown_timeout_s; the rest is for closing what is open."""
FLOWING_LAG_S = 5.0
"""Above this lag the rate that we see is ours, not the devices'."""


def now() -> datetime:
    """The wall clock: aware UTC."""
    return datetime.now(UTC)


class Daemon:
    """factoryd itself; made inside the event loop that runs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.health = Health()
        self.listening: asyncio.Future[HttpAddress] = asyncio.get_running_loop().create_future()
        """Where HTTP listens, once it does."""
        self.active: Active | None = None
        """What works while we lead."""
        self._waiting = Waiting()
        publisher = Publisher(
            settings.mqtt,
            instance=settings.instance,
            version=installed_version(),
            clock=now,
            metrics=self.metrics.publisher,
        )
        self._voice = Voice(self.registry, publisher, self.health)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set: standby, active, and standby again whenever the lock is lost.

        Raises:
            HttpUnavailable: http.host and http.port cannot be listened on.
            SchemaError: in a group of one; run factoryd migrate.
        """
        register_process_metrics(self.registry, installed_version())
        HealthCollector(self.registry, self.health)
        heartbeat, notifier = Heartbeat(self.registry), Notifier.from_environment()
        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(serve_http(self.settings.http, self.registry, self.health))
            self.listening.set_result(address)
            pool = await stack.enter_async_context(open_pool(self.settings.database))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [
                group.create_task(heartbeat.run(), name="heartbeat"),
                group.create_task(self._headroom().run(), name="queue headroom"),
                group.create_task(self._feed_watchdog(notifier, heartbeat), name="watchdog"),
                group.create_task(self._voice.run(), name="voice"),
                group.create_task(watch_database(self.health, lambda: probe_writable(pool)), name="database watch"),
            ]
            self.health.watch("event_loop", heartbeat.probe)
            log.info("daemon_started", version=installed_version(), http=address.url)
            while not stop.is_set():
                await self._stand(stop, pool, notifier)
            notifier.stopping()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        log.info("daemon_stopped")

    def _headroom(self) -> QueueHeadroom:
        ingest = self.metrics.ingest

        def is_flowing() -> bool:
            return self.health.passes("subscribed") and metric_total(ingest.lag) < FLOWING_LAG_S

        return QueueHeadroom(self.registry, self.settings.mqtt.broker_max_queued_messages, ingest.messages, is_flowing)

    async def _feed_watchdog(self, notifier: Notifier, heartbeat: Heartbeat) -> None:
        ingest, health = self.metrics.ingest, self.health

        def look() -> Signs:
            moved = metric_total(ingest.readings) + metric_total(ingest.retries)
            return Signs(heartbeat.take_worst_s(), moved, int(metric_total(ingest.in_flight)), not health.passes("database"))

        await feed_watchdog(notifier, look, lambda: health.readiness().summary)

    async def _stand(self, stop: asyncio.Event, pool: Pool, notifier: Notifier) -> None:
        """Stands for leadership once, and leads until stopped or deposed."""
        leading = asyncio.create_task(self._lead(stop, pool, notifier), name="leading")
        stopping = asyncio.create_task(stop.wait(), name="stopping")
        try:
            await asyncio.wait({leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                self.health.draining()
                notifier.stopping()
                await self._drained(leading)
        finally:
            stopping.cancel()
            if stop.is_set() or not leading.done():  # standing by, past its time, or we are cancelled ourselves
                leading.cancel()  # what is not acknowledged comes again
                await asyncio.wait({leading})
        led = self.health.passes("lock")
        try:
            await leading
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
        except (LeadershipLost, DatabaseUnavailable) as error:
            self.health.leadership_lost()
            self._waiting.failed(error, told=led)
            if led:
                log.warning("leadership_lost", reason=str(error))

    async def _drained(self, leading: asyncio.Task[None]) -> None:
        """Waits for the orderly end of the leader, as long as it may take."""
        if self.active is None:
            return
        bound_s = self.settings.shutdown_timeout_s * DRAIN_SHARE
        await asyncio.wait({leading}, timeout=bound_s)
        if not leading.done() and self.active is not None:
            readings = self.active.pipeline.in_flight
            log.warning("drain_abandoned", readings=readings, after_s=bound_s, meaning="not acknowledged: they come again")

    async def _lead(self, stop: asyncio.Event, pool: Pool, notifier: Notifier) -> None:
        assert self.settings.database.url is not None, "checked before"

        def on_state(state: str) -> None:
            self.health.leadership_changed(state)
            if state == "standby":
                notifier.ready()  # the service is up: it stands by

        await self._waiting.pause()
        # Before the lock: a standby on too old a schema shall end now, and not when it is needed.
        await asyncio.to_thread(check_schema, self.settings.database.url.get_secret_value())
        async with leadership(self.settings.database, on_state, self._waiting) as connection:
            self.active = await Active.load(
                self.settings, self.metrics, self.health, pool, connection, self._voice.publisher, now
            )
            await self._voice.speak()
            try:
                await self.active.run(stop, on_ready=notifier.ready)
            except* (LeadershipLost, DatabaseUnavailable) as lost:
                raise lost.exceptions[0] from None
            finally:
                self.active = None
