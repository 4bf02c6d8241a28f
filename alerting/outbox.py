"""Step 8 of a reading's walk: committed versions of alerts on their way to the broker, in order, marked after PUBACK.

What was committed by this process comes from memory, at once; what an earlier one left comes from the table, first. After a
broken connection everything not yet acknowledged is published again, in order: the last retained state is the newest.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import structlog

from alerting.metrics import AlertMetrics
from alerting.outgoing import Outgoing
from mqtt.publisher import Outbound
from mqtt.receiver import BrokerUnavailable

log = structlog.get_logger(__name__)

CHUNK = 100
GATHER_S = 0.05
"""Marks are gathered for so long: one commit for many, and the readings' own commits are not in their way."""
RETRY_MAX_S = 5.0


class OutboxStore(Protocol):
    """Where it is kept until the broker has it; raises ConnectionError for "try again"."""

    async def waiting(self) -> Sequence[Outgoing]:
        """Returns what is not yet published, in order."""
        ...

    async def mark(self, keys: Sequence[tuple[int, int]]) -> None:
        """Marks (alert, version) pairs as published."""
        ...


class Broker(Protocol):
    """The publisher, as far as it is needed here."""

    ready: asyncio.Event

    async def publish_in_order(self, messages: Sequence[Outbound]) -> list[bool]:
        """Returns when all are acknowledged."""
        ...


class Outbox:
    """Versions on their way."""

    def __init__(self, store: OutboxStore, broker: Broker, metrics: AlertMetrics) -> None:
        self._store = store
        self._broker = broker
        self._metrics = metrics
        self._waiting: deque[tuple[float, Outgoing]] = deque()
        self._published: list[tuple[int, int]] = []
        self._arrived = asyncio.Event()
        self._to_mark = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def load(self) -> None:
        """Takes what an earlier process left; before CONNECT.

        Raises:
            ConnectionError: the database is away.
        """
        self.put(await self._store.waiting())

    def put(self, versions: Sequence[Outgoing]) -> None:
        """Takes committed versions; never blocks."""
        if versions:
            now = perf_counter()
            self._waiting.extend((now, version) for version in versions)
            self._metrics.waiting.set(len(self._waiting))
            self._idle.clear()
            self._arrived.set()

    async def drain(self) -> None:
        """Returns when everything is published and marked; waits for the broker as long as the caller does."""
        await self._idle.wait()

    async def run(self) -> None:
        """Publishes and marks until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(), name="outbox publishing")
            group.create_task(self._mark(), name="outbox marking")

    async def _publish(self) -> None:
        while True:
            await self._arrived.wait()
            await self._broker.ready.wait()
            chunk = [self._waiting[place] for place in range(min(CHUNK, len(self._waiting)))]
            messages = [message for _, version in chunk for message in _messages(version)]
            try:
                accepted = await self._broker.publish_in_order(messages)
            except BrokerUnavailable as error:
                log.debug("alerts_not_published", error=str(error), waiting=len(self._waiting))
                await asyncio.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - the connection's end may not be seen yet
                continue
            self._metrics.refused.inc(accepted.count(False))
            self._settle(len(chunk))

    def _settle(self, count: int) -> None:
        now = perf_counter()
        for _ in range(count):
            since, version = self._waiting.popleft()
            self._metrics.publish_seconds.observe(now - since)
            self._published.append((version.alert_id, version.version))
        self._metrics.published.inc(count)
        self._metrics.waiting.set(len(self._waiting))
        if not self._waiting:
            self._arrived.clear()
        self._to_mark.set()

    async def _mark(self) -> None:
        attempt = 0
        while True:
            await self._to_mark.wait()
            await asyncio.sleep(GATHER_S)
            self._to_mark.clear()
            keys, self._published = self._published, []
            try:
                await self._store.mark(keys)
            except ConnectionError as error:
                attempt += 1
                self._published = keys + self._published
                self._to_mark.set()
                if attempt in {1, 10} or attempt % 100 == 0:
                    log.warning("alerts_not_marked", error=str(error), count=len(keys), attempt=attempt)
                await asyncio.sleep(random.uniform(0, min(RETRY_MAX_S, 0.1 * 2 ** min(attempt, 6))))  # noqa: S311
                continue
            attempt = 0
            if not self._waiting and not self._published:
                self._idle.set()


def _messages(version: Outgoing) -> list[Outbound]:
    state = Outbound(version.topic, version.payload, version.retain)
    return [state] if version.event_topic is None else [state, Outbound(version.event_topic, version.payload)]
