"""Alerting, joined: what a committed batch means, who is told, and what people do about it.

Made and loaded with `factoryd.active`, before CONNECT; dropped whole with the lock.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from time import perf_counter

import structlog
from prometheus_client import CollectorRegistry

from alerting.absence import Absence, Presence
from alerting.acts import Acts
from alerting.alert import NO_DATA, OFFLINE, Alert, Place, Severity
from alerting.alertmanager import Alertmanager
from alerting.alertmanager_api import AlertmanagerApi
from alerting.alertmanager_metrics import AlertmanagerMetrics
from alerting.answers import Answers
from alerting.book import Book
from alerting.draft import Draft
from alerting.late import Late
from alerting.metrics import CHANGES, AlertMetrics
from alerting.monitor import Monitor
from alerting.outbox import Outbox
from alerting.outgoing import Outgoing
from alerting.payloads import Texts
from alerting.reconciliation import Reconciliation
from alerting.rule_changes import RuleChanges
from config.settings import Settings
from mqtt.listener import Listener, open_listener
from mqtt.publisher import Publisher
from storage.alarm_quality import load_alarm_quality
from storage.alert_book import AlertTables
from storage.alert_outbox import OutboxTable
from storage.alerts import AlertLedger
from storage.database import Connection, Pool
from storage.late import PastTables
from storage.operator_commands import CommandTable
from storage.state import save_state

log = structlog.get_logger(__name__)

LOOK_S = 1.0
QUALITY_S = 60.0
THRESHOLDS_SEEN = "thresholds_seen_at"


class AlarmMetrics:
    """The metrics of all of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.alerts = AlertMetrics(registry)
        self.alertmanager = AlertmanagerMetrics(registry)


class Alarms:
    """All parts of alerting, for as long as we lead."""

    def __init__(
        self,
        settings: Settings,
        metrics: AlarmMetrics,
        pool: Pool,
        connection: Connection,
        publisher: Publisher,
        clock: Callable[[], datetime],
        presence: Callable[[], Mapping[int, Presence]],
        granted: Callable[[], datetime | None],
    ) -> None:
        self._settings, self._pool, self._clock, self._granted = settings, pool, clock, granted
        self._metrics = metrics.alerts
        self._publisher = publisher
        self.tables = AlertTables(pool)
        self.commands = CommandTable(pool)
        alerting, root = settings.alerting, settings.mqtt.root
        self.book = Book(Texts(alerting.message_template, alerting.timezone), 0)
        self.monitor = Monitor(self.book, alerting.late_after_s)
        self.ledger = AlertLedger(connection, self.monitor, root, clock, self._committed)
        self.outbox_table = OutboxTable(pool)
        self._outbox = Outbox(self.outbox_table, publisher, self._metrics)
        self._absence = Absence(alerting, self.monitor, presence)
        self.answers = Answers(publisher)
        self._late = Late(self.monitor, PastTables(pool), self.ledger.transact, self._metrics)
        self._acts = Acts(self.monitor, self.commands, self.ledger.transact, clock, self._metrics)
        self._rules = RuleChanges(self.monitor, self.tables, self.ledger.transact, clock, self._thresholds_seen, self._metrics)
        self._reconciliation = Reconciliation(
            root,
            settings.instance,
            alerting.keep_resolved_h,
            book=self.book,
            store=self.outbox_table,
            broker=publisher,
            listen=self._listen,
            drained=self._outbox.drain,
            clock=clock,
            metrics=self._metrics,
        )
        self._alertmanager: Alertmanager | None = None
        if alerting.alertmanager_url is not None:
            api = AlertmanagerApi(alerting.alertmanager_url.get_secret_value())
            self._alertmanager = Alertmanager(api, root, self._open_alerts, clock, metrics.alertmanager)

    async def load(self, state: Mapping[str, str]) -> None:
        """Loads everything, and brings in effect what has changed while nobody was there.

        Raises:
            DatabaseUnavailable: try again.
        """
        tables, book = self.tables, self.book
        started = perf_counter()
        book.system_id = await tables.system_id()
        seen_now = await tables.now()
        snapshot = await tables.snapshot()
        book.states.update(await tables.states())
        book.keep(await tables.open_alerts())
        self.monitor.restore(snapshot, await tables.marks(), self._clock())
        self.monitor.blind_from = await tables.last_received()
        self._absence.last_offline = await tables.last_absences(OFFLINE)
        self._absence.last_no_data = await tables.last_absences(NO_DATA)
        await self._outbox.load()
        seen_at = state.get(THRESHOLDS_SEEN)
        forced = await tables.changed_since(datetime.fromisoformat(seen_at)) if seen_at else list(snapshot.rules)
        await self._rules.take(snapshot, seen_now, forced)
        await self._acts.carry_out()
        self._count_open()
        log.info("alerting_loaded", thresholds=len(snapshot.rules), open=len(book.alerts), seconds=perf_counter() - started)

    async def load_thresholds(self) -> None:
        """The cache `thresholds`, or `devices`, has changed."""
        await self._rules.load()

    async def serve_operators(self) -> None:
        """Somebody has written a command, or changed an alert."""
        await self._acts.carry_out()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outbox.run(), name="outbox")
            group.create_task(self._late.run(), name="late windows")
            group.create_task(self._reconciliation.run(), name="alert reconciliation")
            group.create_task(self._look(), name="absence")
            group.create_task(self._measure(), name="alarm quality")
            group.create_task(self.answers.run(), name="operator answers")
            if self._alertmanager is not None:
                group.create_task(self._alertmanager.run(), name="Alertmanager")

    async def drain(self) -> None:
        """Waits until what is committed is published and marked."""
        await self._outbox.drain()

    async def _look(self) -> None:
        """Judges silence, ends shelving, raises what only our own absence delayed; once a second."""
        while True:
            await asyncio.sleep(LOOK_S)
            granted, now = self._granted(), self._clock()
            self._note_sight(granted, now)
            try:
                draft = await self.ledger.transact(lambda: self._absence.look(granted, now))  # noqa: B023 - awaited here
                self._absence.committed(draft)
                if granted is not None:
                    await self.ledger.transact(lambda: self.monitor.settle_latent(now))  # noqa: B023
            except ConnectionError as error:
                log.warning("absence_not_judged", error=str(error))

    def _note_sight(self, granted: datetime | None, now: datetime) -> None:
        monitor = self.monitor
        if granted is None and monitor.blind_to is not None:
            monitor.blind_from, monitor.blind_to = now, None
        elif granted is not None and monitor.blind_to is None:
            monitor.blind_to = granted

    async def _measure(self) -> None:
        while True:
            try:
                quality = await load_alarm_quality(self._pool)
                self._metrics.chattering.set(quality.chattering)
                self._metrics.stale.set(quality.stale)
                self._metrics.acknowledge_seconds.set(quality.acknowledge_seconds)
            except ConnectionError as error:
                log.debug("alarm_quality_not_read", error=str(error))
            await asyncio.sleep(QUALITY_S)

    def _committed(self, draft: Draft, messages: Sequence[Outgoing]) -> None:
        self._outbox.put(messages)
        for entry in draft.entries:
            if entry.change in CHANGES:
                self._metrics.changes.labels(entry.change).inc()
        if draft.entries:
            self._count_open()
            if self._alertmanager is not None:
                self._alertmanager.note([(entry.alert, draft.place(entry.alert.device_id)) for entry in draft.entries])
        if draft.late:
            self._late.note()
        self.answers.put(draft.outcomes)

    def _count_open(self) -> None:
        for severity in Severity:
            self._metrics.open.labels(severity.value).set(self.book.open_by_severity[severity])

    def _open_alerts(self) -> list[tuple[Alert, Place]]:
        places = self.book.snapshot.places
        return [(alert, places[alert.device_id]) for alert in self.book.alerts.values() if alert.device_id in places]

    async def _thresholds_seen(self, moment: datetime) -> None:
        await save_state(self._pool, THRESHOLDS_SEEN, moment.isoformat())

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Listener]:
        async with open_listener(self._settings.mqtt) as listener:
            yield listener
