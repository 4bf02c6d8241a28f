"""Firmware over the air, joined: what devices report, what is due, what is sent.

Made and loaded with `factoryd.active`, before CONNECT; dropped whole with the lock.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from config.ota_settings import OtaSettings
from config.settings import Settings
from ingest.births import BadReport, read_report
from ingest.devices import Registry
from mqtt.connection import Deliveries
from mqtt.publisher import Publisher
from ota.candidates import Candidate
from ota.catalogue import Catalogue, catalogue
from ota.commands import Commands
from ota.deployment import Phase, Status, Timeouts
from ota.dispatcher import Dispatcher
from ota.draft import Draft
from ota.metrics import OtaMetrics
from ota.rollouts import Rollouts
from ota.tracker import Known, Tracker
from storage.artifacts import Artifacts
from storage.database import Pool
from storage.ota_figures import load_figures
from storage.ota_outbox import CommandOutbox
from storage.ota_queue import WaitingTable
from storage.ota_tables import OtaTables
from storage.rollout_engine import RolloutTables

log = structlog.get_logger(__name__)

MEASURE_S = 15.0
RELOAD_S = 60.0
"""Manifests expire without anybody's doing."""


class Updates:
    """All parts of firmware over the air, for as long as we lead."""

    def __init__(
        self,
        settings: Settings,
        metrics: OtaMetrics,
        pool: Pool,
        publisher: Publisher,
        clock: Callable[[], datetime],
        registry: Registry,
        heard: Callable[[Iterable[int], datetime], None],
        granted: Callable[[], datetime | None],
        pass_on: Callable[[Deliveries], None],
    ) -> None:
        self._settings, self._metrics, self._pool, self._clock = settings.ota, metrics, pool, clock
        self._registry = registry
        self._artifacts = Artifacts(settings.ota)
        self._catalogue = Catalogue({}, {}, {}, self._artifacts.device_url)
        self._waiting = WaitingTable(pool)
        self._outbox = CommandOutbox(pool)
        tables, timeouts = OtaTables(pool), timeouts_of(settings.ota)
        life = timedelta(seconds=settings.ota.command_expires_s)
        self._commands = Commands(settings.mqtt.root, self._outbox, publisher, lambda: self._catalogue, life, clock, metrics)
        self._rollouts = Rollouts(RolloutTables(pool), metrics.rollouts)
        self._dispatcher = Dispatcher(
            tables,
            self._candidates,
            timeouts,
            granted=granted,
            step_rollouts=self._rollouts.step,
            committed=self._commands.committed,
            clock=clock,
            metrics=metrics,
        )
        self._tracker = Tracker(
            settings.mqtt.root,
            tables,
            timeouts,
            device=self._known,
            version_in_birth=_version_in_birth,
            heard=heard,
            committed=self._tracked,
            pass_on=pass_on,
            metrics=metrics,
        )
        metrics.allow_unsigned.set(int(settings.ota.allow_unsigned))

    async def load(self) -> None:
        """Loads what may be sent.

        Raises:
            DatabaseUnavailable: try again.
        """
        await self._load_catalogue()
        if self._settings.allow_unsigned:
            log.warning(
                "unsigned_firmware_allowed", setting="ota.allow_unsigned", meaning="whoever writes the database, flashes"
            )

    async def changed(self) -> None:
        """Somebody has written a version, a key, a deployment or a rollout."""
        await self._load_catalogue()
        self._dispatcher.wake()
        self._commands.wake()

    def deliver(self, deliveries: Deliveries) -> None:
        """Takes what the control session brought; never blocks."""
        self._tracker.deliver(deliveries)

    async def store(self) -> None:
        """Returns when all that has come is stored, and passed on to be acknowledged."""
        await self._tracker.drain()

    async def drain(self) -> None:
        """Returns when every command that is published is marked; no more are published."""
        await self._commands.drain()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tracker.run(), name="firmware reports")
            group.create_task(self._dispatcher.run(), name="deployments")
            group.create_task(self._commands.run(), name="firmware commands")
            group.create_task(self._reload(), name="firmware versions")
            group.create_task(self._measure(), name="firmware figures")

    def _tracked(self, draft: Draft) -> None:
        self._commands.committed(draft)
        if any(move.after.terminal for move in draft.moves):  # a slot is free
            self._dispatcher.wake()

    async def _candidates(self, now: datetime) -> Sequence[Candidate]:
        rollouts, _ = await self._rollouts.open(now)
        return await self._waiting.candidates(now, self._catalogue.refused, rollouts)

    def _known(self, name: str) -> Known | None:
        return self._registry.by_name.get(name)

    async def _load_catalogue(self) -> None:
        versions, keys = await self._outbox.versions()
        before = self._catalogue.refused
        self._catalogue = catalogue(
            versions,
            keys,
            allow_unsigned=self._settings.allow_unsigned,
            allowed_hosts=self._settings.allowed_hosts,
            address=self._artifacts.device_url,
            now=self._clock(),
        )
        self._metrics.refused.clear()
        for number, reason in self._catalogue.refused.items():
            self._metrics.refused.labels(reason).inc()
            if before.get(number) != reason:
                detail = self._catalogue.details.get(number)
                log.warning("version_not_sent", version=self._catalogue.versions[number].version, reason=reason, detail=detail)

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                await self._load_catalogue()
            except ConnectionError as error:
                log.debug("versions_not_read", error=str(error))

    async def _measure(self) -> None:
        metrics = self._metrics
        while True:
            try:
                figures = await load_figures(self._pool)
            except ConnectionError as error:
                log.debug("deployments_not_counted", error=str(error))
            else:
                metrics.outbox.set(figures.outbox)
                metrics.oldest.set(figures.oldest_s)
                metrics.overdue.set(figures.overdue)
                counts = {(status, phase): count for status, phase, count in figures.live}
                for status in (Status.PENDING, Status.IN_PROGRESS):
                    for phase in Phase:
                        metrics.deployments.labels(status.value, phase.value).set(counts.get((status.value, phase.value), 0))
                metrics.installed.clear()
                for hardware, version, count in figures.installed:
                    metrics.installed.labels(hardware, version).set(count)
                metrics.drifted.clear()
                for version, count in figures.drift:
                    metrics.drifted.labels(version).set(count)
            await asyncio.sleep(MEASURE_S)


def timeouts_of(settings: OtaSettings) -> Timeouts:
    """Returns the part of the settings that the state machine needs."""
    return Timeouts(**{name: getattr(settings, name) for name in Timeouts.__struct_fields__})


def _version_in_birth(payload: bytes) -> str | None:
    try:
        report = read_report(payload)
    except BadReport:  # presence counts and tells it
        return None
    return report.version if report is not None else None
