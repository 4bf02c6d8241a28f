"""Commands on their way to devices: asked for in the row that they are about, published, and the flag cleared after PUBACK.

A crash in between repeats the same (deployment, attempt): devices take it for what it is. Nothing is kept in memory but
cancels for strays, which the next hello of the device asks for again.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import structlog

from mqtt import topics
from mqtt.publisher import Outbound
from ota.catalogue import Catalogue
from ota.deployment import Command
from ota.draft import Draft, Stray
from ota.metrics import OtaMetrics
from ota.payloads import Order, cancel, update
from ota.signing import envelope

log = structlog.get_logger(__name__)

CHUNK = 200
POLL_S = 5.0
MOST_STRAYS = 1_000


class Pending(NamedTuple):
    """A command that the broker has not acknowledged; `sends` tells it from a later one of the same deployment."""

    id: int
    device: str
    command: str
    attempt: int
    sends: int
    version_id: int
    reason: str


class CommandStore(Protocol):
    """Where the flags are; raises ConnectionError for "try again"."""

    async def pending(self, version_ids: Sequence[int], limit: int) -> Sequence[Pending]:
        """Returns commands that wait: cancels, and updates to these versions."""
        ...

    async def sent(self, commands: Sequence[Pending]) -> None:
        """Clears their flags."""
        ...


class Broker(Protocol):
    """The publisher, as far as it is needed here."""

    ready: asyncio.Event

    async def publish_in_order(self, messages: Sequence[Outbound]) -> list[bool]:
        """Returns when all are acknowledged."""
        ...


class Commands:
    """Publishes what is asked for."""

    def __init__(
        self,
        root: str,
        store: CommandStore,
        broker: Broker,
        catalogue: Callable[[], Catalogue],
        life: timedelta,
        clock: Callable[[], datetime],
        metrics: OtaMetrics,
    ) -> None:
        self._root = root
        self._store = store
        self._broker = broker
        self._catalogue = catalogue
        self._life = life
        self._clock = clock
        self._metrics = metrics
        self._strays: deque[Stray] = deque(maxlen=MOST_STRAYS)
        self._woken = asyncio.Event()
        self._publishing = asyncio.Lock()

    def committed(self, draft: Draft) -> None:
        """What is committed may ask for commands."""
        self._strays.extend(draft.strays)
        if draft.strays or any(after.publish_pending is not None for after in draft.changed.values()):
            self._woken.set()

    def wake(self) -> None:
        """Looks now: versions may have become sendable."""
        self._woken.set()

    async def drain(self) -> None:
        """Returns when what is published is marked as sent; nothing more is published afterwards."""
        await self._publishing.acquire()

    async def run(self) -> None:
        """Publishes until cancelled."""
        failed = False
        self._woken.set()
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            await self._broker.ready.wait()
            self._woken.clear()
            try:
                async with self._publishing:
                    while await self._publish_some():
                        pass
                failed = False
            except ConnectionError as error:
                if not failed:
                    log.warning("commands_not_published", error=str(error))
                failed = True
                self._woken.set()
                await asyncio.sleep(random.uniform(0.05, 1.0))  # noqa: S311 - the connection's end may not be seen yet

    async def _publish_some(self) -> bool:
        """Returns True if there may be more."""
        catalogue, now = self._catalogue(), self._clock()
        strays = [self._strays.popleft() for _ in range(len(self._strays))]
        await self._broker.publish_in_order([self._stop(stray, now) for stray in strays])
        pending = await self._store.pending([*catalogue.sendable], CHUNK)
        if pending:
            accepted = await self._broker.publish_in_order([self._message(each, catalogue, now) for each in pending])
            await self._store.sent(pending)
            for each, taken in zip(pending, accepted, strict=True):
                if taken:
                    self._metrics.commands.labels(each.command).inc()
        return len(pending) == CHUNK

    def _message(self, pending: Pending, catalogue: Catalogue, now: datetime) -> Outbound:
        topic = topics.ota_command(self._root, pending.device)
        if pending.command == Command.CANCEL:
            return Outbound(topic, cancel(pending.device, pending.id, pending.attempt, pending.reason, now))
        version = catalogue.versions[pending.version_id]
        address = catalogue.address(version, now)
        facts: dict[str, object] = {"size_bytes": version.size_bytes, "sha256": version.sha256}
        if version.manifest is not None:
            facts["manifest"] = envelope(version)
        order = Order(pending.device, pending.id, pending.attempt, version.version)
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return Outbound(topic, update(order, address.url, address.expires_at, now, now + self._life, known))

    def _stop(self, stray: Stray, now: datetime) -> Outbound:
        topic = topics.ota_command(self._root, stray.device)
        return Outbound(topic, cancel(stray.device, stray.deployment_id, stray.attempt, "factoryd does not know it", now))
