"""What works while we lead: all state is loaded, then the broker is connected, and readings flow.

Built anew each time leadership is won, and dropped whole when it is lost: nothing in memory outlives the lock.
"""

import asyncio
import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from config.settings import Settings
from console.health import Health, lag_probe, subscribed_probe, tasks_probe
from console.metrics import watch_pipeline
from factoryd.alarms import AlarmMetrics, Alarms
from factoryd.backup_watch import BackupMetrics, BackupWatch
from factoryd.caches import CacheMetrics, Caches, device_load
from factoryd.control import Control
from factoryd.partitioning import Housekeeping, HousekeepingMetrics
from factoryd.rollups import RollupMetrics, Rollups
from factoryd.updates import Updates
from factoryd.upkeep import Upkeep, UpkeepMetrics
from ingest.batch import Batch
from ingest.devices import Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.notices import NoticeMetrics, Notices
from ingest.pipeline import Pipeline
from ingest.presence import Presence
from ingest.presence_metrics import PresenceMetrics
from ingest.reading import Quarantined
from ingest.replays import Replays
from ingest.routes import Routes
from mqtt import topics
from mqtt.metrics import PublisherMetrics, ReceiverMetrics
from mqtt.publisher import Publisher
from mqtt.receiver import Receiver
from mqtt.session import Subscription
from ota.metrics import OtaMetrics
from storage.database import Connection, Pool
from storage.devices import DeviceStore
from storage.presence import PresenceTable
from storage.readings import ReadingWriter
from storage.replays import ReplayTable
from storage.rollups import RollupTable
from storage.state import SESSION_SEEN, load_state, may_skip_key_check, save_state

log = structlog.get_logger(__name__)

SEEING_LAG_S = 2.0
"""Presence judges nobody while messages wait longer than this: what a device said may still be among them."""
OUTBOX_DRAIN_S = 1.0
CONTROL_WINDOW = 2_000
"""Receive maximum of the control session: status messages are few, and the broker keeps those that wait."""

CONTROL_PACE_S = 0.005
"""Least time between two reads of the control session: thousands of devices at work on updates send one report each."""


class Metrics:
    """The metrics of all features; they live as long as the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ingest = IngestMetrics(registry)
        self.receiver = ReceiverMetrics(registry)
        self.publisher = PublisherMetrics(registry)
        self.presence = PresenceMetrics(registry)
        self.notices = NoticeMetrics(registry)
        self.caches = CacheMetrics(registry)
        self.housekeeping = HousekeepingMetrics(registry)
        self.alarms = AlarmMetrics(registry)
        self.backups = BackupMetrics(registry)
        self.ota = OtaMetrics(registry)
        self.rollups = RollupMetrics(registry)
        self.upkeep = UpkeepMetrics(registry)


class Active:
    """The working parts of the leading daemon, made and joined in one straight line."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        health: Health,
        pool: Pool,
        connection: Connection,
        publisher: Publisher,
        state: dict[str, str],
        clock: Callable[[], datetime],
        *,
        skip_key_check: bool,
    ) -> None:
        self._publisher = publisher
        self._settings, self._health, self._pool, self._metrics = settings, health, pool, metrics
        self._devices = DeviceStore(pool)
        self._registry = Registry()
        self._housekeeping = Housekeeping(settings, pool, clock, metrics.housekeeping)
        self._upkeep = Upkeep(settings, pool, clock, metrics.upkeep)
        self._backups = BackupWatch(pool, clock, metrics.backups)
        routes = Routes(settings.mqtt.root, settings.ingest.source)
        self._intake = Intake(settings.ingest, settings.retention, self._registry, routes, metrics.ingest)
        self.alarms = Alarms(
            settings,
            metrics.alarms,
            pool,
            connection,
            publisher,
            clock,
            presence=lambda: self._presence.states,
            granted=lambda: self._presence.granted,
        )
        writer = ReadingWriter(
            connection,
            self._registry,
            self.alarms.ledger,
            skip_key_check=skip_key_check,
            kept=timedelta(days=settings.retention.readings_days),
            clock=clock,
            on_missing_partition=self._housekeeping.hurry,
        )
        self._rollups = Rollups(RollupTable(pool, token_hex(8)), clock, writer.move_mark, metrics.rollups)
        self.pipeline = Pipeline(
            settings.ingest,
            self._intake,
            self._registry,
            writer,
            self._devices,
            metrics.ingest,
            clock,
            self._on_committed,
        )
        self._presence = Presence(
            settings.presence,
            root=settings.mqtt.root,
            instance=settings.instance,
            registry=self._registry,
            store=PresenceTable(pool),
            publish=publisher.publish,
            clock=clock,
            metrics=metrics.presence,
            sees=self._sees,
        )
        self._intake.own_topics[self._presence.marks_topic] = self._presence.telemetry_mark
        self.updates = Updates(
            settings,
            metrics.ota,
            pool,
            publisher,
            clock,
            self._registry,
            heard=self._presence.heard,
            granted=lambda: self._presence.granted,
            pass_on=self._presence.deliver,
        )
        self._notices = Notices(settings.ingest, settings.mqtt.root, publisher.publish, clock, metrics.notices)
        self._replays = Replays(ReplayTable(pool), self._intake, self.pipeline.wake)
        self._caches = Caches(
            settings.database,
            {
                "devices": self._load_devices,
                "thresholds": self.alarms.load_thresholds,
                "users": self.alarms.load_thresholds,
                "replay": self._replays.feed,
                "operators": self.alarms.serve_operators,
                "ota": self.updates.changed,
            },
            metrics.caches,
        )
        marks = Subscription(self._presence.marks_topic)
        status = Subscription(topics.status_filter(settings.mqtt.root), retained=True)
        commands = Subscription(topics.operator_commands_filter(settings.mqtt.root))
        firmware = Subscription(topics.ota_state_filter(settings.mqtt.root), retained=True)
        reports = Subscription(topics.ota_progress_filter(settings.mqtt.root))
        self._operators = Control(
            settings.mqtt.root,
            self.alarms.commands,
            self.alarms.answers,
            metrics.alarms.alerts,
            self.updates.deliver,
        )
        self._telemetry = Receiver(
            settings.mqtt,
            name="telemetry",
            client_id=state["mqtt_client_id_telemetry"],
            subscriptions=(*(Subscription(topic_filter) for topic_filter in routes.filters), marks),
            deliver=self.pipeline.deliver,
            clock=clock,
            metrics=metrics.receiver,
            session_expected=f"{SESSION_SEEN}telemetry" in state,
        )
        self._control = Receiver(
            settings.mqtt,
            name="control",
            client_id=state["mqtt_client_id_control"],
            subscriptions=(firmware, status, marks, commands, reports),
            deliver=self._operators.deliver,
            clock=clock,
            metrics=metrics.receiver,
            session_expected=f"{SESSION_SEEN}control" in state,
            receive_maximum=min(CONTROL_WINDOW, settings.mqtt.receive_maximum),
            pace_s=CONTROL_PACE_S,
        )
        self._presence.hold(self._control)
        self.pipeline.source = self._telemetry

    @classmethod
    async def load(
        cls,
        settings: Settings,
        metrics: Metrics,
        health: Health,
        pool: Pool,
        connection: Connection,
        publisher: Publisher,
        clock: Callable[[], datetime],
    ) -> "Active":
        """Makes the parts, and loads all state before anything is received.

        Raises:
            DatabaseUnavailable: try again.
        """
        state, skip = await load_state(connection), await may_skip_key_check(connection)
        active = cls(settings, metrics, health, pool, connection, publisher, state, clock, skip_key_check=skip)
        await active._housekeeping.make_partitions()
        active._registry.load(await active._devices.load_all())
        await active._presence.load()
        await active.alarms.load(state)
        await active.updates.load()
        await active._rollups.load()
        _tune_garbage_collection()
        log.info("state_loaded", devices=len(active._registry), foreign_key="locked once" if skip else "checked per row")
        return active

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Works until `stop` is set, then stores and acknowledges what has come.

        Raises:
            ExceptionGroup: of LeadershipLost or DatabaseUnavailable: stand for leadership again.
        """
        with ExitStack() as stack:
            stack.enter_context(watch_pipeline(self._metrics.ingest, self.pipeline))
            stack.callback(self.pipeline.abandon)
            async with asyncio.TaskGroup() as group:
                working: list[asyncio.Task[None]] = [
                    group.create_task(self._caches.run(), name="caches"),
                    group.create_task(self.pipeline.run(), name="pipeline"),
                    group.create_task(self._presence.run(), name="presence"),
                    group.create_task(self._notices.run(), name="notices"),
                    group.create_task(self._housekeeping.run(), name="housekeeping"),
                    group.create_task(self._backups.run(), name="backup watch"),
                    group.create_task(self._operators.run(), name="operators' commands"),
                    group.create_task(self.alarms.run(), name="alarms"),
                    group.create_task(self.updates.run(), name="firmware"),
                    group.create_task(self._rollups.run(), name="roll-ups"),
                    group.create_task(self._upkeep.run(), name="maintenance"),
                ]
                await self._caches.listening.wait()
                receiving = [
                    group.create_task(receiver.run(), name=f"{receiver.name} receiver")
                    for receiver in (self._telemetry, self._control)
                ]
                self._watch_health(receiving)
                await self._subscribed(stop)
                if not stop.is_set():
                    on_ready()
                await stop.wait()
                await self._drain()
                ending: list[asyncio.Task[None]] = [*receiving, *working]
                for task in ending:
                    task.cancel()
                await asyncio.wait(ending)

    async def _load_devices(self) -> None:
        await device_load(self._devices, self._registry, self._intake)()
        await self.alarms.load_thresholds()

    async def _subscribed(self, stop: asyncio.Event) -> None:
        """Waits for both sessions, and remembers that the broker has them: from now on a missing one is an incident."""
        ready = asyncio.ensure_future(self._both_ready())
        stopping = asyncio.ensure_future(stop.wait())
        either: set[asyncio.Task[Any]] = {ready, stopping}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return
        finally:
            for task in either:
                task.cancel()
        for receiver in (self._telemetry, self._control):
            await save_state(self._pool, f"{SESSION_SEEN}{receiver.name}", "1")

    async def _both_ready(self) -> None:
        for receiver in (self._telemetry, self._control):
            await receiver.ready.wait()

    async def _drain(self) -> None:
        """Nothing more comes in; what has come is stored and acknowledged."""
        self._telemetry.stop_reading()
        self._control.stop_reading()
        await self.pipeline.drain()
        with suppress(TimeoutError):  # with the database away what is not acknowledged comes again
            async with asyncio.timeout(OUTBOX_DRAIN_S):
                await self.updates.store()
        await self._presence.flush()
        with suppress(TimeoutError):  # with the broker away the outboxes keep them
            async with asyncio.timeout(OUTBOX_DRAIN_S):
                await self.updates.drain()
                await self.alarms.drain()

    def _watch_health(self, receiving: Sequence[asyncio.Task[None]]) -> None:
        health, limit = self._health, self._settings.http.ready_max_lag_s
        health.passed("caches", f"{len(self._registry)} devices")
        health.watch("lag", lag_probe(lambda: self.pipeline.lag_s, limit))
        sessions = {receiver.name: receiver.ready.is_set for receiver in (self._telemetry, self._control)}
        health.watch("subscribed", subscribed_probe(sessions))
        health.watch("receiver", tasks_probe({task.get_name(): _is_running(task) for task in receiving}))

    def _sees(self) -> bool:
        """Tells whether a device's silence would be its own, and not ours."""
        subscribed = self._telemetry.ready.is_set() and self._control.ready.is_set()
        return subscribed and not self._telemetry.paused and self.pipeline.lag_s < SEEING_LAG_S

    def _on_committed(self, batch: Batch, refused: Sequence[Quarantined]) -> None:
        self._presence.heard_in(batch)
        self._replays.settled(batch.replayed)
        self._notices.note(refused)


def _is_running(task: asyncio.Task[None]) -> Callable[[], bool]:
    return lambda: not task.done()


def _tune_garbage_collection() -> None:
    """What is loaded stays; a batch makes ten thousands of tuples that die by reference count: look for cycles seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
