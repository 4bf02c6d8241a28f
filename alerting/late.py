"""What late readings show: the past is evaluated again, in event time and in the background. It never moves live state.

An alert found there that nobody has seen is kept with origin `retrospective`, and published on alert-history only.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import structlog

from alerting.alert import THRESHOLD, Alert, Rule, Side, Status
from alerting.draft import Draft, alert_topic
from alerting.metrics import AlertMetrics
from alerting.monitor import Monitor
from alerting.rules import NORMAL, Step, advance
from ingest.reading import METRICS, Reading

log = structlog.get_logger(__name__)

QUIET_S = 2.0
"""A window is looked at when it has not grown for this long."""
RETRY_S = 5.0
LEAD = timedelta(minutes=10)


class Window(NamedTuple):
    """A stretch of one device's past."""

    device_id: int
    from_at: datetime
    to_at: datetime
    noted_at: datetime


class Episode(NamedTuple):
    """From a crossing to its end, in event time."""

    crossed_at: datetime
    resolved_at: datetime
    side: Side
    peak: float


@dataclass(frozen=True, slots=True)
class Known:
    """What the past of one device holds: its readings, and the alerts that are known already."""

    readings: Sequence[Reading]
    alerts: Sequence[Alert]


class PastStore(Protocol):
    """The stored past; raises ConnectionError for "try again"."""

    async def windows(self, quiet_s: float) -> Sequence[Window]:
        """Returns windows that have not grown for so long."""
        ...

    async def known(self, device_id: int, from_at: datetime, to_at: datetime) -> Known:
        """Returns readings by recorded_at, and alerts that overlap."""
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
                for window in await self._store.windows(QUIET_S):
                    await self._evaluate(window)
            except ConnectionError as error:
                log.warning("late_windows_not_evaluated", error=str(error))
                self._noted.set()
                await asyncio.sleep(RETRY_S)

    async def _evaluate(self, window: Window) -> None:
        rules = [rule for rule in self._monitor.book.snapshot.rules.values() if rule.device_id == window.device_id]
        reach = LEAD + max((max(rule.on_delay, rule.off_delay) for rule in rules), default=timedelta())
        known = await self._store.known(window.device_id, window.from_at - reach, window.to_at + reach)
        found = await asyncio.to_thread(lambda: [(rule, episodes(rule, known.readings)) for rule in rules])

        def decide() -> Draft:
            draft = Draft(self._monitor.book)
            for rule, its_episodes in found:
                for episode in its_episodes:
                    if episode.crossed_at <= window.to_at and episode.resolved_at >= window.from_at:
                        _note_episode(draft, rule, episode, known.alerts)
            draft.closed.append((window.device_id, window.noted_at))
            return draft

        draft = await self._transact(decide)
        self._metrics.late.inc()
        if draft.entries:
            log.info("retrospective_alerts_found", alerts=len(draft.entries), device_id=window.device_id)


def episodes(rule: Rule, readings: Iterable[Reading]) -> list[Episode]:
    """PURE. Returns what the rule would have raised and resolved, had the readings come in order."""
    place = METRICS.index(rule.metric) + 1 if rule.metric in METRICS else 0
    state, found = NORMAL, []
    for reading in readings:
        value = reading[place] if place else (reading.extra or {}).get(rule.metric)
        if not isinstance(value, (int, float)):
            continue
        before = state
        state, step = advance(rule, state, min(reading.recorded_at, reading.received_at), float(value))
        if step is Step.RESOLVE and before.crossed_at is not None and before.side is not None:
            peak = before.peak if before.peak is not None else float(value)
            found.append(Episode(before.crossed_at, state.at or before.crossed_at, before.side, peak))
    return found


def _note_episode(draft: Draft, rule: Rule, episode: Episode, known: Sequence[Alert]) -> None:
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
        limit = episode.peak
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
                message=draft.book.texts.crossing(rule, place, episode.side, limit, episode.crossed_at),
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
