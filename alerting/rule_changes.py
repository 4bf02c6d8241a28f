"""Thresholds that have changed, by any writer: loaded whole, compared, and in effect with what they change, in one step."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Protocol

import structlog

from alerting.book import Snapshot
from alerting.draft import Draft
from alerting.metrics import AlertMetrics
from alerting.monitor import LastValues, Monitor

log = structlog.get_logger(__name__)


class RuleStore(Protocol):
    """Where thresholds are; raises ConnectionError for "try again"."""

    async def now(self) -> datetime:
        """Returns the database's clock."""
        ...

    async def snapshot(self) -> Snapshot:
        """Returns all thresholds and devices."""
        ...

    async def last_values(self, device_ids: Iterable[int]) -> LastValues:
        """Returns the last known values of these devices."""
        ...


class Transact(Protocol):
    """Commits a draft."""

    async def __call__(self, decide: Callable[[], Draft], prepare: Callable[[], Awaitable[None]] | None = None) -> Draft:
        """Prepares, decides, commits and adopts."""
        ...


class RuleChanges:
    """Brings the thresholds in effect up to date."""

    def __init__(
        self,
        monitor: Monitor,
        store: RuleStore,
        transact: Transact,
        clock: Callable[[], datetime],
        on_seen: Callable[[datetime], Awaitable[None]],
        metrics: AlertMetrics,
    ) -> None:
        self._monitor = monitor
        self._store = store
        self._transact = transact
        self._clock = clock
        self._on_seen = on_seen
        self._metrics = metrics

    async def load(self) -> None:
        """Loads thresholds and devices, and brings them in effect.

        Raises:
            ConnectionError: the database is away; what we have stays in effect.
        """
        seen_at = await self._store.now()
        await self.take(await self._store.snapshot(), seen_at)

    async def take(self, snapshot: Snapshot, seen_at: datetime, forced: Iterable[int] = ()) -> None:
        """Brings what was loaded in effect.

        Args:
            snapshot: loaded after `seen_at`.
            seen_at: by the database's clock.
            forced: thresholds that count as changed.
        """
        changed = self._monitor.changed_rules(snapshot, forced)
        last: dict[tuple[int, str], tuple[float, datetime]] = {}

        async def read() -> None:
            if changed:
                last.update(await self._store.last_values({rule.device_id for rule in changed}))

        await self._transact(lambda: self._monitor.change_rules(snapshot, changed, last, self._clock()), read)
        await self._on_seen(seen_at)
        self._metrics.thresholds.set(len(snapshot.rules))
        if changed:
            log.info("thresholds_changed", changed=len(changed), in_effect=len(snapshot.rules))
