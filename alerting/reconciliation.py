"""What is retained at the broker against what should be: missing states are published again, ghosts are cleared.

At each connect and every hour. A state is a ghost when no open alert, and none resolved a short time ago, stands behind it:
so resolved states leave the broker after `alerting.keep_resolved_h`, on brokers without message expiry, too.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from alerting.book import Book
from alerting.metrics import AlertMetrics
from alerting.payloads import encode_alert
from mqtt import topics
from mqtt.listener import Heard
from mqtt.publisher import Outbound
from mqtt.sender import PublishRefused

log = structlog.get_logger(__name__)

PERIOD_S = 3600.0
RETRY_S = 5.0
TIMEOUT_S = 30.0


class Standing(Protocol):
    """A state that should be retained."""

    @property
    def alert_id(self) -> int:
        """Whose state."""
        ...

    @property
    def version(self) -> int:
        """The newest one."""
        ...


class StandingStore(Protocol):
    """What should be retained; raises ConnectionError for "try again"."""

    async def standing(self, resolved_after: datetime) -> Mapping[str, Standing]:
        """Returns it by topic below {root}/alerts/."""
        ...

    async def payloads(self, alert_ids: Sequence[int]) -> Mapping[int, bytes]:
        """Returns the newest payloads that are kept."""
        ...


class Ear(Protocol):
    """A second connection that hears retained messages."""

    async def subscribe(self, filters: Sequence[str], *, retained: bool = False) -> None:
        """Subscribes."""
        ...

    def messages(self) -> AsyncIterator[Heard]:
        """Yields what comes."""
        ...


class Broker(Protocol):
    """The publisher."""

    ready: asyncio.Event
    gone: asyncio.Event

    async def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publishes one message."""
        ...

    async def publish_in_order(self, messages: Sequence[Outbound]) -> list[bool]:
        """Publishes many."""
        ...


class Reconciliation:
    """Looks and mends."""

    def __init__(
        self,
        root: str,
        instance: str,
        keep_resolved_h: float,
        *,
        book: Book,
        store: StandingStore,
        broker: Broker,
        listen: Callable[[], AbstractAsyncContextManager[Ear]],
        drained: Callable[[], Awaitable[None]],
        clock: Callable[[], datetime],
        metrics: AlertMetrics,
    ) -> None:
        self._root = root
        self._token = topics.token(root, instance)
        self._keep = timedelta(hours=keep_resolved_h)
        self._book = book
        self._store = store
        self._broker = broker
        self._listen = listen
        self._drained = drained
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Reconciles after each connect and every hour, until cancelled."""
        while True:
            await self._broker.ready.wait()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._drained()
                    await self.reconcile()
            except (ConnectionError, PublishRefused, TimeoutError) as error:
                log.warning("alert_states_not_reconciled", error=str(error) or "no answer in time", retry_in_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
                continue
            await self._until_due()

    async def reconcile(self) -> None:
        """Looks once.

        Raises:
            ConnectionError: broker or database is away.
            PublishRefused: the broker does not let us.
        """
        found = await self._retained()
        wanted = await self._store.standing(self._clock() - self._keep)
        prefix = topics.alert_state(self._root, "")
        missing = [
            standing
            for topic, standing in wanted.items()
            if _identity(found.get(prefix + topic, b"")) != (standing.alert_id, standing.version)
        ]
        ghosts = [topic for topic in found if topic.removeprefix(prefix) not in wanted]
        kept = await self._store.payloads([standing.alert_id for standing in missing])
        raised_since = {prefix + alert.topic for alert in self._book.alerts.values()}
        ghosts = [topic for topic in ghosts if topic not in raised_since]
        messages = [Outbound(topic, b"", retain=True) for topic in ghosts]
        by_alert = {standing.alert_id: topic for topic, standing in wanted.items()}
        for standing in missing:
            payload = self._payload(standing, kept)
            if payload is not None:
                messages.append(Outbound(prefix + by_alert[standing.alert_id], payload, retain=True))
        if messages:
            await self._broker.publish_in_order(messages)
            republished = len(messages) - len(ghosts)
            self._metrics.reconciled.labels("cleared").inc(len(ghosts))
            self._metrics.reconciled.labels("republished").inc(republished)
            log.info("alert_states_reconciled", cleared=len(ghosts), republished=republished)

    def _payload(self, standing: Standing, kept: Mapping[int, bytes]) -> bytes | None:
        alert = self._book.alerts.get(standing.alert_id)
        if alert is None:
            return kept.get(standing.alert_id)
        snapshot = self._book.snapshot
        place = snapshot.places.get(alert.device_id)
        return encode_alert(alert, place, snapshot.logins) if place is not None else kept.get(standing.alert_id)

    async def _retained(self) -> dict[str, bytes]:
        """A message of our own, published after SUBACK, comes behind all that was retained."""
        nonce, found = f"retained {secrets.token_hex(8)}".encode(), dict[str, bytes]()
        async with self._listen() as ear:
            await ear.subscribe([topics.alert_states_filter(self._root)], retained=True)
            await ear.subscribe([self._token])
            await self._broker.publish(self._token, nonce)
            async for heard in ear.messages():
                if heard.topic == self._token:
                    if heard.payload == nonce:
                        return found
                elif heard.payload:
                    found[heard.topic] = heard.payload
                else:
                    found.pop(heard.topic, None)
        return found

    async def _until_due(self) -> None:
        """An hour, or a new connection: a broker that lost its memory has lost our states."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PERIOD_S):
                await self._broker.gone.wait()


def _identity(payload: bytes) -> tuple[object, object] | None:
    try:
        state = json.loads(payload)
        return (state.get("alert_id"), state.get("version")) if isinstance(state, dict) else None
    except ValueError:
        return None
