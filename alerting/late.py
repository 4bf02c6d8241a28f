"""What late readings show: the past is evaluated again, in event time and in the background. It never moves live state.

An alert found there that nobody has seen is kept with origin `retrospective`, and published on alert-history only.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import structlog

from alerting.alert import THRESHOLD, Alert, Status
from alerting.draft import Draft, alert_topic
from alerting.episodes import Episode, Replay
from alerting.metrics import AlertMetrics
from alerting.monitor import Monitor
from ingest.reading import Reading

log = structlog.get_logger(__name__)

QUIET_S = 2.0
"""A window is looked at when it has not grown for this long."""
RETRY_S = 5.0
LEAD = timedelta(minutes=10)
PIECE = 5_000


class Window(NamedTuple):
    """A stretch of one device's past."""

    device_id: int
    from_at: datetime
    to_at: datetime
    noted_at: datetime


class PastStore(Protocol):
    """The stored past; raises ConnectionError for "try again"."""

    async def windows(self, quiet_s: float) -> Sequence[Window]:
        """Returns windows that have not grown for so long, or cannot grow any more."""
        ...

    async def readings(self, device_id: int, after: datetime, until: datetime, limit: int) -> Sequence[Reading]:
        """Returns the first readings of that time, by recorded_at."""
        ...

    async def alerts(self, device_id: int, from_at: datetime, until: datetime) -> Sequence[Alert]:
        """Returns alerts that overlap that time."""
        ...


class Transact(Protocol):
    """Commits a draft."""

    async def __call__(self, decide: Callable[[], Draft]) -> Draft:
        """Decides, commits and adopts."""
        ...


class Late:
    """Works through late windows."""

    def __init__(self, monitor: Monitor, store: PastStore, transact: Transact, metrics: AlertMetrics) -> None:
        self._monitor = monitor
        self._store = store
        self._transact = transact
        self._metrics = metrics
        self._noted = asyncio.Event()
        self._noted.set()

    def note(self) -> None:
        """Told that a committed batch had late readings."""
        self._noted.set()

    async def run(self) -> None:
        """Evaluates windows until cancelled."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            await asyncio.sleep(QUIET_S * 1.1)
            try:
                while windows := await self._store.windows(QUIET_S):
                    for window in windows:
                        await self._evaluate(window)
            except ConnectionError as error:
                log.warning("late_windows_not_evaluated", error=str(error))
                self._noted.set()
                await asyncio.sleep(RETRY_S)

    async def _evaluate(self, window: Window) -> None:
        rules = [rule for rule in self._monitor.book.snapshot.rules.values() if rule.device_id == window.device_id]
        reach = LEAD + max((max(rule.on_delay, rule.off_delay) for rule in rules), default=timedelta())
        after, until = window.from_at - reach, window.to_at + reach
        known, replay = await self._store.alerts(window.device_id, after, until), Replay(rules)
        while readings := await self._store.readings(window.device_id, after, until, PIECE):
            await asyncio.to_thread(replay.feed, readings)
            after = readings[-1].recorded_at

        def decide() -> Draft:
            draft = Draft(self._monitor.book)
            for episode in replay.found:
                if episode.crossed_at <= window.to_at and episode.resolved_at >= window.from_at:
                    _note_episode(draft, episode, known)
            draft.closed.append((window.device_id, window.noted_at))
            return draft

        draft = await self._transact(decide)
        self._metrics.late.inc()
        if draft.entries:
            log.info("retrospective_alerts_found", alerts=len(draft.entries), device_id=window.device_id)


def _note_episode(draft: Draft, episode: Episode, known: Sequence[Alert]) -> None:
    rule = episode.rule
    overlapping = [
        alert
        for alert in known
        if alert.threshold_id == rule.threshold_id
        and alert.triggered_at <= episode.resolved_at
        and (alert.resolved_at is None or alert.resolved_at >= episode.crossed_at)
    ]
    if any(alert.origin == "live" for alert in overlapping):
        return
    if not overlapping:
        place = draft.place(rule.device_id)
        draft.raise_past(
            Alert(
                id=0,
                device_id=rule.device_id,
                kind=THRESHOLD,
                threshold_id=rule.threshold_id,
                owner_id=rule.owner_id,
                severity=rule.severity,
                metric=rule.metric,
                side=episode.side,
                topic=alert_topic(place, rule.metric, rule.threshold_id),
                triggered_at=episode.crossed_at,
                message=draft.book.texts.crossing(rule, place, episode.side, episode.peak, episode.crossed_at),
                value=episode.peak,
                peak_value=episode.peak,
                min_value=rule.low,
                max_value=rule.high,
                status=Status.RESOLVED,
                resolved_at=episode.resolved_at,
                resolution="recovered",
                origin="retrospective",
                instruction=rule.instruction,
            )
        )
        return
    known_bounds = (overlapping[0].triggered_at, overlapping[0].resolved_at, overlapping[0].peak_value)
    if known_bounds != (episode.crossed_at, episode.resolved_at, episode.peak):
        draft.change(
            overlapping[0],
            "corrected",
            episode.resolved_at,
            event=False,
            triggered_at=episode.crossed_at,
            resolved_at=episode.resolved_at,
            peak_value=episode.peak,
        )
