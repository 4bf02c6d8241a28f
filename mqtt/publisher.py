"""Outgoing messages, by aiomqtt: one connection, kept connected; `publish` returns when the broker has acknowledged.

Also our own birth and will on {root}/daemon/{instance}. Nothing is queued here: whoever publishes keeps the message until
`publish` has returned, and tries again after BrokerUnavailable. Why two clients: docs/adr/0004-two-mqtt-clients.md.
"""

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import aiomqtt
import msgspec
import structlog
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from config.settings import MqttSettings
from mqtt import topics
from mqtt.metrics import PublisherMetrics
from mqtt.receiver import BrokerUnavailable, tls_context

log = structlog.get_logger(__name__)
logging.getLogger("mqtt").setLevel(logging.NOTSET)  # aiomqtt calls its logger so, raises its level, and would silence this room

MAX_IN_FLIGHT = 20
"""Unacknowledged messages: mosquitto's own default, so that no broker has reason to refuse."""
TIMEOUT_S = 10.0
"""Longest wait for a CONNACK or a PUBACK."""
BURST, PAUSE_S = 10, 0.001
"""Of many messages, so many go out at a time. Each costs us 0.1 ms: a storm of alerts must not hold up the readings."""
REPEAT_S = 60.0
"""The birth is said again this often: the will of a predecessor whose host vanished comes late, and must not stand."""
FAREWELL_S = 2.0


class PublishRefused(Exception):
    """The broker acknowledged a message with a failure code, such as not authorised: it has not taken it, and will not."""


class Outbound(NamedTuple):
    """One message to be published at QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False
    correlation_data: bytes | None = None


class _Client(aiomqtt.Client):
    """Adds to aiomqtt what it leaves out: the reason code of a PUBACK, and the end of a wait when the connection ends."""

    def __init__(self, host: str, port: int, **options: Any) -> None:
        super().__init__(host, port, **options)
        self._verdicts: dict[int, asyncio.Future[ReasonCode]] = {}

    async def deliver(self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None = None) -> None:
        """Publishes and waits for the PUBACK."""
        mid = self.send(topic, payload, qos, retain, correlation)
        if qos:
            await self.confirmed(topic, mid)

    def send(self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None = None) -> int:
        """Writes a message, in order; returns the packet id for `confirmed`."""
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != MQTT_ERR_SUCCESS:
            raise BrokerUnavailable(f"publishing to {topic}: the connection to the broker is down (code {info.rc})")
        if qos:
            self._verdicts[info.mid] = self._loop.create_future()
        return info.mid

    async def confirmed(self, topic: str, mid: int) -> None:
        """Waits for the PUBACK."""
        verdict = self._verdicts[mid]
        try:
            if not verdict.done():
                either: set[asyncio.Future[Any]] = {verdict, self._disconnected}
                await asyncio.wait(either, timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._verdicts.pop(mid, None)
        if not verdict.done():
            raise BrokerUnavailable(f"publishing to {topic}: no acknowledgement before the connection or {TIMEOUT_S:g} s ended")
        if verdict.result().is_failure:
            raise PublishRefused(
                f"the broker refused a message on {topic}: {verdict.result()}; check our account's access rules"
            )

    def abandon(self) -> None:
        """Ends what a failed connect leaves behind: the library's task, and a socket on which a late CONNACK could come."""
        if self._misc_task is not None:
            self._misc_task.cancel()
        connection = self._client.socket()
        if connection is not None:
            self._loop.remove_reader(connection.fileno())
            self._loop.remove_writer(connection.fileno())
            connection.close()

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is gone; wait for it with `asyncio.wait`, which leaves it alone."""
        return self._disconnected

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties) -> None:
        verdict = self._verdicts.get(mid)
        if verdict is not None and not verdict.done():
            verdict.set_result(reason_code)


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
        self._client: _Client | None = None
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
            place, topic, mid = waiting.popleft()
            try:
                await client.confirmed(topic, mid)
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
                    waiting.append((place, topic, client.send(topic, payload, 1, retain, correlation)))
                except BaseException:
                    self._in_flight.release()
                    raise
                await asyncio.sleep(0 if (place + 1) % BURST else PAUSE_S)
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
            except (aiomqtt.MqttError, OSError) as error:
                reason = str(error) or type(error).__name__
                attempt += 1
            self._metrics.reconnects.inc()
            if attempt in {0, 1} or attempt % 20 == 0:
                log.warning("publisher_lost", reason=reason, attempt=attempt)
            bound = min(self._settings.reconnect_max_s, 0.2 * 2 ** min(attempt, 10))
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - not a secret

    async def _serve(self, client: _Client) -> str:
        self._client = client
        self.ready.set()
        self.gone.clear()
        self._metrics.connected.set(1)
        try:
            while not client.lost.done():
                await self._announce()
                await asyncio.wait({client.lost}, timeout=REPEAT_S)
            return str(client.lost.exception() or "connection closed by the broker")
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
    async def _connected(self) -> AsyncIterator[_Client]:
        url, settings = self._url, self._settings
        tls = tls_context(settings) if url.scheme == "mqtts" else None
        client = _Client(
            url.hostname or "localhost",
            url.port or (8883 if tls else 1883),
            identifier=self.client_id,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            will=aiomqtt.Will(self._topic, self._offline(), 1, retain=True),
            keepalive=settings.keep_alive_s,
            timeout=TIMEOUT_S,
            tls_context=tls,
            max_inflight_messages=MAX_IN_FLIGHT,
        )
        entered = False
        try:
            async with client:
                entered = True
                yield client
        finally:
            if not entered:
                client.abandon()
            if client.lost.done():
                client.lost.exception()  # said elsewhere; the library would have it reported as never retrieved
