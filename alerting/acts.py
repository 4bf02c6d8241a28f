"""Carries out what people want: operators' commands, and what plain SQL did to alerts. Called when there are new ones."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from alerting.alert import Alert
from alerting.draft import Draft
from alerting.metrics import AlertMetrics
from alerting.monitor import Monitor
from alerting.operators import Command, carry_out, take_foreign

log = structlog.get_logger(__name__)

CHUNK = 200


class ActStore(Protocol):
    """Where commands and changed alerts are; raises ConnectionError for "try again"."""

    async def pending(self, limit: int) -> Sequence[Command]:
        """Returns commands not yet carried out, in order."""
        ...

    async def unnoticed(self, limit: int) -> Sequence[Alert]:
        """Returns alerts that plain SQL has changed or made."""
        ...


class Transact(Protocol):
    """Commits a draft."""

    async def __call__(self, decide: Callable[[], Draft], prepare: Callable[[], Awaitable[None]] | None = None) -> Draft:
        """Prepares, decides, commits and adopts."""
        ...


class Acts:
    """One chunk, one transaction."""

    def __init__(
        self, monitor: Monitor, store: ActStore, transact: Transact, clock: Callable[[], datetime], metrics: AlertMetrics
    ) -> None:
        self._monitor = monitor
        self._store = store
        self._transact = transact
        self._clock = clock
        self._metrics = metrics

    async def carry_out(self) -> None:
        """Carries out all that there is by now.

        Raises:
            ConnectionError: the database is away; call again.
        """
        while await self._chunk():
            pass

    async def _chunk(self) -> bool:
        commands: list[Command] = []
        changed: list[Alert] = []

        async def read() -> None:
            commands[:] = await self._store.pending(CHUNK)
            changed[:] = await self._store.unnoticed(CHUNK)

        def decide() -> Draft:
            draft, now = Draft(self._monitor.book), self._clock()
            for row in changed:
                take_foreign(self._monitor, draft, row, now)
            for command in commands:
                carry_out(self._monitor, draft, command, now)
            return draft

        draft = await self._transact(decide, read)
        for outcome in draft.outcomes:
            self._metrics.commands.labels(outcome.outcome).inc()
        if commands or changed:
            log.info("operators_served", commands=len(commands), changed_by_sql=len(changed))
        return len(commands) == CHUNK or len(changed) == CHUNK
