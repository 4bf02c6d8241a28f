"""Quarantined messages that somebody wants tried again: fed to the intake in order, a few at a time, each once."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import structlog

from ingest.intake import Intake
from mqtt.session import stored_publish

log = structlog.get_logger(__name__)

CHUNK = 200
"""Messages on their way at a time: with the largest payloads 13 MB."""


class QuarantinedMessage(NamedTuple):
    """One row of the quarantine, as far as it makes a message."""

    id: int
    topic: str
    payload: bytes
    content_type: str | None
    qos: int
    received_at: datetime


class ReplayStore(Protocol):
    """Where the rows are; raises ConnectionError for "try again"."""

    async def pending(self, after: int, limit: int) -> Sequence[QuarantinedMessage]:
        """Returns rows with an id above `after` whose replay was asked for, in the order of their ids."""
        ...


class Replays:
    """Replays on their way. A row leaves the quarantine in the transaction that settles its readings."""

    def __init__(self, store: ReplayStore, intake: Intake, wake: Callable[[], None], chunk: int = CHUNK) -> None:
        self._store = store
        self._intake = intake
        self._wake = wake
        self._chunk = chunk
        self._in_flight: set[int] = set()
        self._landed = asyncio.Event()
        self._landed.set()

    def settled(self, ids: Iterable[int]) -> None:
        """Told of the rows that a committed batch has removed."""
        self._in_flight.difference_update(ids)
        if not self._in_flight:
            self._landed.set()

    async def feed(self) -> int:
        """Feeds all that is asked for by now, and returns how many; returns when they are committed.

        Raises:
            ConnectionError: the database is away; what was fed is settled by the pipeline; call again.
        """
        await self._landed.wait()
        after, fed = 0, 0
        while rows := await self._store.pending(after, self._chunk):
            self._landed.clear()
            self._in_flight = {row.id for row in rows}
            for row in rows:
                publish = stored_publish(row.topic, row.payload, row.content_type, row.qos)
                self._intake.replay(publish, row.received_at, row.id)
            self._wake()
            after, fed = rows[-1].id, fed + len(rows)
            await self._landed.wait()
        if fed:
            log.info("quarantine_replayed", messages=fed)
        return fed
