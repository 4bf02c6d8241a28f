"""Sends the alerts to a Prometheus Alertmanager as well, so that mail, chat, on-call and silences come from there.

Never in the way: `note` only remembers the newest version of each alert. Nothing is stored: what is open is sent again every
minute, also after a restart; what ended while we were away ends there by itself (`alertmanager_body.HOLDS`).
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

import structlog

from alerting.alert import Alert, Place
from alerting.alertmanager_api import AlertmanagerApi, AlertmanagerUnavailable, Refused
from alerting.alertmanager_body import Labels, entries, fires, labels_of
from alerting.alertmanager_metrics import AlertmanagerMetrics

log = structlog.get_logger(__name__)

REPEAT_S = 60.0
ENDED_REPEATED_S = 900.0
"""An end is repeated for this long, as Prometheus does: an Alertmanager that was restarted has forgotten its alerts, and tells
nobody that one has ended if it does not hear of it again."""
BATCH = 100
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
MAX_KEPT = 20_000
"""Alerts that wait, and ended ones. Beyond it the oldest go: what is open comes again within a minute, what has ended ends
there by itself."""

Told = tuple[Alert, Place]


class Ended(NamedTuple):
    """One that Alertmanager knows to have ended, and until when (monotonic) it is told again."""

    told: Told
    until: float


class Alertmanager:
    """What it is to know, and what it knows."""

    def __init__(
        self,
        api: AlertmanagerApi,
        site: str,
        open_alerts: Callable[[], Iterable[Told]],
        clock: Callable[[], datetime],
        metrics: AlertmanagerMetrics,
    ) -> None:
        """Connects to nothing yet.

        Args:
            api: where to; closed at the end of `run`.
            site: `mqtt.root`.
            open_alerts: returns all open alerts as committed, with their devices.
            clock: aware UTC.
            metrics: what is counted.
        """
        self._api, self._site, self._open_alerts, self._clock, self._metrics = api, site, open_alerts, clock, metrics
        self._waiting: dict[int, Told] = {}
        self._ended: dict[int, Ended] = {}
        self._fired: dict[int, Labels] = {}
        """By alert: the labels under which Alertmanager knows it as firing."""
        self._refused: set[int] = set()
        """Alerts whose refusal has been logged."""
        self._arrived = asyncio.Event()
        self._reached: bool | None = None

    def note(self, changes: Iterable[Told]) -> None:
        """Takes committed versions of alerts, in order; never blocks."""
        for told in changes:
            number = told[0].id
            self._ended.pop(number, None)
            self._waiting.pop(number, None)
            self._waiting[number] = told
        _drop_oldest(self._waiting)
        self._arrived.set()

    async def run(self) -> None:
        """Sends until cancelled; never raises for Alertmanager's fault."""
        attempt, repeat_at = 0, monotonic()
        async with self._api:
            while True:
                if monotonic() >= repeat_at:
                    self._repeat()
                    repeat_at = monotonic() + REPEAT_S
                if not self._waiting:
                    await self._until_noted(repeat_at - monotonic())
                    continue
                try:
                    await self._send()
                    attempt = 0
                except AlertmanagerUnavailable as error:
                    self._note_reached(False, str(error))
                    bound = min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(attempt, 10))
                    attempt += 1
                    await asyncio.sleep(random.uniform(0.5, 1.0) * bound)  # noqa: S311 - not a secret

    async def _until_noted(self, longest_s: float) -> None:
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._arrived.wait()

    def _repeat(self) -> None:
        """Puts in line again what fires and what has ended lately."""
        now = monotonic()
        self._ended = {number: ended for number, ended in self._ended.items() if ended.until > now}
        for number, ended in self._ended.items():
            self._waiting.setdefault(number, ended.told)
        for alert, place in self._open_alerts():
            if fires(alert):
                self._waiting.setdefault(alert.id, (alert, place))
        self._fired = {number: labels for number, labels in self._fired.items() if number in self._waiting}
        self._refused &= self._waiting.keys()

    async def _send(self) -> None:
        """Sends the first of those that wait; on failure they wait again, unless a newer version does."""
        taken = dict(islice(self._waiting.items(), BATCH))
        for number in taken:
            del self._waiting[number]
        now = self._clock()
        bodies = {number: entries(*told, self._site, now, self._fired.get(number)) for number, told in taken.items()}
        body = [entry for own in bodies.values() for entry in own]
        if not body:
            return
        try:
            refused = await self._api.post(body)
        except AlertmanagerUnavailable:
            self._waiting = taken | self._waiting
            raise
        self._note_reached(True)
        self._metrics.sent.inc(len(body) - len(refused))
        self._note_refused(refused)
        for number, told in taken.items():
            if bodies[number]:
                self._settle(*told)

    def _settle(self, alert: Alert, place: Place) -> None:
        """Remembers what Alertmanager knows of an alert by now."""
        if fires(alert):
            self._fired[alert.id] = labels_of(alert, place, self._site)
        elif alert.id not in self._waiting:
            self._ended.setdefault(alert.id, Ended((alert, place), monotonic() + ENDED_REPEATED_S))
            _drop_oldest(self._ended)

    def _note_refused(self, refused: list[Refused]) -> None:
        self._metrics.failures.labels("refused").inc(len(refused))
        for entry, answer in refused:
            number = int(entry["labels"]["alert_id"])
            if number not in self._refused:
                self._refused.add(number)
                log.error("alertmanager_refused_alert", alert_id=number, error=answer)

    def _note_reached(self, reached: bool, error: str | None = None) -> None:
        self._metrics.up.set(reached)
        if not reached:
            self._metrics.failures.labels("unreachable").inc()
        if reached is not self._reached:
            self._reached = reached
            if reached:
                log.info("alertmanager_reached", url=self._api.endpoint)
            else:
                log.warning("alertmanager_lost", error=error)


def _drop_oldest(kept: dict[int, Any]) -> None:
    for number in list(islice(kept, max(0, len(kept) - MAX_KEPT))):
        del kept[number]
