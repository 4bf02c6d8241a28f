"""Outgoing messages: one connection (`mqtt.sender`), kept connected; `publish` returns when the broker has acknowledged.

Also our own birth and will on {root}/daemon/{instance}. Nothing is queued here: whoever publishes keeps the message until
`publish` has returned, and tries again after BrokerUnavailable.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import mqtt5
import msgspec
import structlog

from config.settings import MqttSettings
from mqtt import topics
from mqtt.metrics import PublisherMetrics
from mqtt.receiver import BrokerUnavailable, tls_context
from mqtt.sender import PublishRefused, Sender, SenderOptions

log = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 20
"""Unacknowledged messages: mosquitto's own default, so that no broker has reason to refuse."""
BURST = 10
"""Of many messages, so many go out in one write, and then whoever waits has its turn: a storm must not hold up the readings."""
REPEAT_S = 60.0
"""The birth is said again this often: the will of a predecessor whose host vanished comes late, and must not stand."""
FAREWELL_S = 2.0


class Outbound(NamedTuple):
    """One message to be published at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False
    correlation_data: bytes | None = None


class Publisher:
    """The one connection for everything outgoing."""

    def __init__(
        self, settings: MqttSettings, *, instance: str, version: str, clock: Callable[[], datetime], metrics: PublisherMetrics
    ) -> None:
        assert settings.url is not None, "mqtt.url is checked at start"
        self._settings = settings
        self._url = urlsplit(settings.url.get_secret_value())
        self._topic = topics.daemon(settings.root, instance)
        self._version = version
        self._clock = clock
        self._metrics = metrics
        self._client: Sender | None = None
        self._status: dict[str, str] = {"status": "online", "version": version, "since": clock().isoformat()}
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.client_id = f"factoryd-{secrets.token_hex(16)}"
        """Random, and no durable session: nothing of ours waits at the broker under this name."""
        self.ready = asyncio.Event()
        """Set while connected."""
        self.gone = asyncio.Event()
        """Set while not connected."""
        self.gone.set()
        self.farewell = True
        """Whether we say offline at the end: not if another daemon has taken our place."""

    async def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        """Returns when the broker has acknowledged (QoS 0: when it is written).

        Raises:
            BrokerUnavailable: not connected, or no answer; whether the broker has it is unknown: try again.
            PublishRefused: the broker said no; trying again is of no use.
        """
        try:
            async with self._in_flight:
                if self._client is None:
                    raise BrokerUnavailable(f"publishing to {topic}: not connected to the broker")
                await self._client.deliver(topic, payload, qos, retain)
        except BrokerUnavailable:
            self._metrics.failed.labels("unavailable").inc()
            raise
        except PublishRefused:
            self._metrics.failed.labels("refused").inc()
            raise
        self._metrics.published.inc()

    async def publish_in_order(self, messages: Sequence[Outbound]) -> list[bool]:
        """Publishes at QoS 1, many in flight, never one before another of the list; False for each that the broker refused.

        Raises:
            BrokerUnavailable: which of them arrived is unknown: publish all of them again.
        """
        client, accepted, waiting = self._client, [True] * len(messages), deque[tuple[int, str, int]]()
        if client is None:
            self._metrics.failed.labels("unavailable").inc()
            raise BrokerUnavailable("publishing: not connected to the broker")

        async def confirm_first() -> None:
            place, topic, packet_id = waiting.popleft()
            try:
                await client.confirmed(topic, packet_id)
                self._metrics.published.inc()
            except PublishRefused as error:
                accepted[place] = False
                self._metrics.failed.labels("refused").inc()
                log.error("publish_refused", topic=topic, error=str(error))
            finally:
                self._in_flight.release()

        try:
            for place, (topic, payload, retain, correlation) in enumerate(messages):
                while self._in_flight.locked() and waiting:
                    await confirm_first()
                await self._in_flight.acquire()
                try:
                    packet_id = client.send(topic, payload, 1, retain, correlation)
                    assert packet_id is not None, "QoS 1"
                    waiting.append((place, topic, packet_id))
                except BaseException:
                    self._in_flight.release()
                    raise
                if (place + 1) % BURST == 0:
                    await asyncio.sleep(0)
            while waiting:
                await confirm_first()
        except BrokerUnavailable:
            self._metrics.failed.labels("unavailable").inc()
            raise
        finally:
            for _ in waiting:
                self._in_flight.release()
        return accepted

    async def announce(self, status: str, cause: str | None = None) -> None:
        """Says what we are (online, blind …) on our own topic, retained, now and after each reconnect."""
        self._status = {"status": status, "version": self._version, "since": self._clock().isoformat()}
        if cause is not None:
            self._status["cause"] = cause
        with suppress(BrokerUnavailable):
            await self._announce()

    async def run(self) -> None:
        """Connects and stays connected until cancelled; then says offline. Never raises for a broker's fault."""
        attempt = 0
        while True:
            try:
                async with self._connected() as client:
                    attempt = 0
                    reason = await self._serve(client)
            except (OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                attempt += 1
            self._metrics.reconnects.inc()
            if attempt in {0, 1} or attempt % 20 == 0:
                log.warning("publisher_lost", reason=reason, attempt=attempt)
            bound = min(self._settings.reconnect_max_s, 0.2 * 2 ** min(attempt, 10))
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - not a secret

    async def _serve(self, client: Sender) -> str:
        self._client = client
        self.ready.set()
        self.gone.clear()
        self._metrics.connected.set(1)
        try:
            while not client.lost.done():
                await self._announce()
                await asyncio.wait({client.lost}, timeout=REPEAT_S)
            return client.lost.result()
        except asyncio.CancelledError:
            with suppress(BrokerUnavailable, PublishRefused, TimeoutError):
                async with asyncio.timeout(FAREWELL_S if self.farewell else 0):
                    await client.deliver(self._topic, self._offline(), 1, True)
            raise
        finally:
            self._client = None
            self.ready.clear()
            self.gone.set()
            self._metrics.connected.set(0)

    async def _announce(self) -> None:
        try:
            await self.publish(self._topic, msgspec.json.encode(self._status), retain=True)
        except PublishRefused as error:  # nothing else depends on it
            log.warning("birth_refused", error=str(error))

    def _offline(self) -> bytes:
        """As a will, `since` is when the connection was made that has ended."""
        return msgspec.json.encode({"status": "offline", "version": self._version, "since": self._clock().isoformat()})

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Sender]:
        url, settings = self._url, self._settings
        tls = tls_context(settings) if url.scheme == "mqtts" else None
        options = SenderOptions(
            url.hostname or "localhost",
            url.port or (8883 if tls else 1883),
            self.client_id,
            unquote(url.username) if url.username else None,
            unquote(url.password).encode() if url.password else None,
            settings.keep_alive_s,
            mqtt5.Will(self._topic, payload=self._offline(), qos=mqtt5.QoS.AT_LEAST_ONCE, retain=True),
            tls,
        )
        client = await Sender.connected(options)
        try:
            yield client
        finally:
            await client.disconnect()
