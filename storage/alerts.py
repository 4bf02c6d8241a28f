"""Alerting's transactions: on the connection that holds the lock, one at a time with the batches of readings.

`transact` lets a decision be made, writes its draft, and adopts it in memory: nothing else changes the book in between.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import psycopg

from alerting.draft import Draft, OutOfNumbers
from alerting.monitor import Monitor
from alerting.outgoing import Outgoing, outgoing
from ingest.reading import Reading
from storage.alert_rows import write_draft
from storage.database import Connection, one_line, translated
from storage.leader import LeadershipLost

NUMBERS = 500
"""Alert numbers fetched at a time."""

OnCommitted = Callable[[Draft, Sequence[Outgoing]], None]
"""Told of each adopted draft and of what is to be published."""


class AlertLedger:
    """Writes drafts. `turn`: who holds it uses the connection."""

    def __init__(
        self, connection: Connection, monitor: Monitor, root: str, clock: Callable[[], datetime], on_committed: OnCommitted
    ) -> None:
        self._connection = connection
        self._monitor = monitor
        self._root = root
        self._clock = clock
        self._on_committed = on_committed
        self.turn = asyncio.Lock()

    async def transact(self, decide: Callable[[], Draft], prepare: Callable[[], Awaitable[None]] | None = None) -> Draft:
        """Decides, commits and adopts.

        Args:
            decide: pure; may be called more than once.
            prepare: reads what the decision needs, while nothing else can change.

        Raises:
            DatabaseUnavailable: nothing was changed; try again.
            LeadershipLost: the connection is gone.
        """
        async with self.turn:
            if prepare is not None:
                await prepare()
            with translated("committing alerts"):
                draft = await self._decided(decide)
                messages = outgoing(draft, self._root)
                if draft:
                    async with self._transaction():
                        await write_draft(self._connection, draft, messages)
            self.settle(draft, messages)
        return draft

    async def evaluate(self, readings: Iterable[Reading]) -> tuple[Draft, list[Outgoing]]:
        """Evaluates readings that the caller, who holds the turn, is storing; the caller writes, commits and settles."""
        held = list(readings) if not isinstance(readings, list) else readings
        draft = await self._decided(lambda: self._monitor.evaluate(held))
        return draft, outgoing(draft, self._root) if draft.entries else []

    def settle(self, draft: Draft, messages: Sequence[Outgoing]) -> None:
        """After the commit: memory follows, and the publisher is woken."""
        self._monitor.adopt(draft, self._clock())
        if draft.entries or draft.outcomes or draft.late:
            self._on_committed(draft, messages)

    async def _decided(self, decide: Callable[[], Draft]) -> Draft:
        while True:
            try:
                return decide()
            except OutOfNumbers:
                book = self._monitor.book
                count = max(NUMBERS, 2 * len(book.ids))
                cursor = await self._connection.execute("SELECT nextval('alerts_id_seq') FROM generate_series(1, %s)", [count])
                book.ids += [number for (number,) in await cursor.fetchall()]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        connection = self._connection
        try:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                yield
                await connection.execute("COMMIT")
        except psycopg.Error as error:
            if connection.closed or connection.broken:
                raise LeadershipLost(f"the connection was lost while committing alerts: {one_line(error)}") from error
            await connection.rollback()
            raise
