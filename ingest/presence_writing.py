"""Presence on its way into the database: changes soon, mere progress of last_seen seldom, and never many rows at once.

A thousand devices that speak every second change nothing but their last_seen. Writing that at the pace of the changes, in one
statement, doubled the slowest readings' latency; so it is written at a pace of its own, a chunk of devices at a time.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol

import structlog

from config.settings import PresenceSettings
from ingest.births import Status
from ingest.liveness import Liveness, PresenceRow
from ingest.presence_metrics import PresenceMetrics
from ingest.unacknowledged import Unacknowledged
from mqtt.connection import Deliveries

log = structlog.get_logger(__name__)

CHUNK = 100
"""Most devices in one transaction."""
HURRY = 500
"""Status messages that wait for a write; from then on the write does not wait for its interval."""


class PresenceStore(Protocol):
    """Where presence is kept; raises ConnectionError for "try again"."""

    async def load(self) -> Iterable[PresenceRow]:
        """Returns every device."""
        ...

    async def save(self, rows: Sequence[PresenceRow]) -> None:
        """Stores these rows in one transaction."""
        ...


class PresenceWriting:
    """What is to be stored. `changed`: soon; `progressed`: devices of which only last_seen may be newer than stored."""

    def __init__(self, settings: PresenceSettings, store: PresenceStore, metrics: PresenceMetrics) -> None:
        self._interval_s = settings.last_seen_interval_s
        self._store = store
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self.states: dict[int, Liveness] = {}
        self.changed: set[int] = set()
        self.progressed: set[int] = set()
        self.unacknowledged = Unacknowledged()
        self.due = asyncio.Event()
        """Set when the next write should not wait for its interval."""
        self.failed = False

    def received(self, deliveries: Deliveries) -> None:
        """Takes status messages whose changes are noted; they are acknowledged after the next write."""
        self.unacknowledged.add(deliveries)
        if len(self.unacknowledged) >= HURRY:
            self.due.set()

    async def write(self) -> None:
        """Stores what changed and acknowledges the status messages that it contains; after a failure all stays as it was."""
        async with self._lock:
            self.due.clear()
            receipts = self.unacknowledged.all()
            changed, self.changed = self.changed, set()
            # After a failure there is always something to try: that tells when the database is back.
            retried = list(islice(self.progressed, CHUNK)) if self.failed else []
            try:
                stored = await self._store_all(changed.union(retried))
            except BaseException:
                self.changed |= changed
                raise
            if not stored:
                self.changed |= changed
                return
            self.failed = False
            self.unacknowledged.stored(receipts)
            self._count()

    async def flush(self) -> None:
        """As `write`, and every last_seen with it."""
        await self.write()
        async with self._lock:
            if not self.failed:
                await self._store_all(self.progressed.copy())

    async def spread(self) -> None:
        """Stores the progress of last_seen, evenly over its interval, until cancelled."""
        while True:
            chunks = list(_chunks(self.states)) or [[]]
            for chunk in chunks:
                await asyncio.sleep(self._interval_s / len(chunks))
                async with self._lock:
                    await self._store_all(self.progressed.intersection(chunk))

    async def _store_all(self, numbers: Collection[int]) -> bool:
        """Stores these devices, each chunk in a transaction of its own; tells whether all are stored."""
        try:
            for chunk in _chunks(numbers):
                await self._store_chunk(chunk)
        except ConnectionError as error:
            self._note_failure(error)
            return False
        return True

    async def _store_chunk(self, numbers: Sequence[int]) -> None:
        states = [self.states[number] for number in numbers]
        rows = [state.row for state in states if state.row != state.written]
        progressed = self.progressed.intersection(numbers)
        self.progressed -= progressed
        try:
            if rows:
                await self._store.save(rows)
        except BaseException:
            self.progressed |= progressed
            raise
        for row in rows:
            self.states[row.id].written = row

    def _note_failure(self, error: ConnectionError) -> None:
        self._metrics.write_failures.inc()
        if not self.failed:
            log.warning("presence_not_written", error=str(error), changed=len(self.changed))
        self.failed = True

    def _count(self) -> None:
        statuses = [state.status for state in self.states.values()]
        for status in Status:
            self._metrics.devices.labels(status.value).set(statuses.count(status))


def _chunks(numbers: Iterable[int]) -> Iterable[list[int]]:
    """Returns them in order, so that rows are always locked in the same one."""
    ordered = sorted(numbers)
    return (ordered[first : first + CHUNK] for first in range(0, len(ordered), CHUNK))
