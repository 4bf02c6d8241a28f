"""The receiving half of MQTT: one durable session, kept connected, messages handed over in lists, acknowledged after commit.

Step 1 of a reading's walk. `Receiver.run()` connects, re-connects with full jitter, and calls `deliver` with everything that
one read of the socket brought. Nothing is acknowledged here: whoever took the `Deliveries` calls `acknowledge_all` when they
are committed, and that PUBACK leaves only on the connection that delivered them (a message that came over a lost connection
is delivered again).
"""

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote, urlsplit

import structlog

from config.settings import MqttSettings
from mqtt.metrics import ReceiverMetrics
from mqtt.session import (
    Connected,
    ProtocolError,
    Publish,
    Session,
    SessionOptions,
    Subscribed,
    Subscription,
    announced_size,
)

log = structlog.get_logger(__name__)

READ_BUFFER_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 10.0
TAKEN_OVER_S = 5.0
GOODBYE_S = 1.0


class BrokerUnavailable(ConnectionError):
    """The broker cannot be reached, refused us, or went away: try again."""


Clock = Callable[[], datetime]
"""Wall clock: aware UTC."""


@dataclass(slots=True, eq=False)
class Deliveries:
    """Messages that one read of the socket brought, in order of arrival, and the connection that brought them."""

    publishes: Sequence[Publish]
    received_at: datetime
    connection: "Connection"


def acknowledge_all(deliveries: Iterable[Deliveries]) -> None:
    """Tells the broker that these messages are safe: in order of arrival, one write per connection."""
    by_connection: dict[Connection, list[Publish]] = {}
    for delivery in deliveries:
        by_connection.setdefault(delivery.connection, []).extend(delivery.publishes)
    for connection, publishes in by_connection.items():
        connection.acknowledge(publishes)


@dataclass(slots=True, eq=False)
class Receipt:
    """What an acknowledgement needs of `Deliveries`: to be kept, without their payloads, by who acknowledges late."""

    packet_ids: Sequence[int]
    connection: "Connection"

    @classmethod
    def of(cls, deliveries: Deliveries) -> "Receipt":
        """Returns the receipt; it has no packet ids if all messages came with QoS 0."""
        return cls([each.packet_id for each in deliveries.publishes if each.packet_id is not None], deliveries.connection)


def acknowledge_receipts(receipts: Iterable[Receipt]) -> None:
    """As `acknowledge_all`."""
    by_connection: dict[Connection, list[int]] = {}
    for receipt in receipts:
        by_connection.setdefault(receipt.connection, []).extend(receipt.packet_ids)
    for connection, packet_ids in by_connection.items():
        connection.acknowledge_ids(packet_ids)


class Connection(asyncio.BufferedProtocol):
    """One network connection: moves bytes between the socket and a `Session`. `closed` ends with it."""

    def __init__(self, session: Session, deliver: Callable[[Deliveries], None], clock: Clock) -> None:
        self._session = session
        self._deliver = deliver
        self._clock = clock
        self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._filled = 0
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._loop_time = loop.time
        self.heard_at = loop.time()
        self.connected: asyncio.Future[Connected] = loop.create_future()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.paused = False
        self._gone: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: says CONNECT."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._session.connect()
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the event loop before each read."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the event loop after each read: whole packets leave the buffer, the rest stays for the next read."""
        if self.closed.done():  # we have said DISCONNECT: what still comes is delivered again
            self._filled = 0
            return
        self.heard_at = self._loop_time()
        filled = self._filled + nbytes
        try:
            publishes, used = self._session.feed(self._buffer[:filled])
        except ProtocolError as error:
            self.close(str(error))
            return
        self._filled = filled - used
        self._keep_rest(used, filled)
        self._tell()
        self._flush()
        if publishes:
            self._deliver(Deliveries(publishes, self._clock(), self))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop when the socket is gone."""
        self._transport = None
        self._gone.set_result(None)
        self._end(f"connection lost: {exc}" if exc else "connection closed by the broker")

    def acknowledge(self, publishes: Sequence[Publish]) -> None:
        """Writes one PUBACK per QoS 1 message, in one write; nothing if this connection is gone."""
        self.acknowledge_ids([publish.packet_id for publish in publishes if publish.packet_id is not None])

    def acknowledge_ids(self, packet_ids: Sequence[int]) -> None:
        """As `acknowledge`, by packet id."""
        if self._transport is not None and not self.closed.done():
            self._transport.write(self._session.acknowledge(packet_ids))

    def ping(self) -> None:
        """Says that we are alive."""
        self._session.ping()
        self._flush()

    def pause(self) -> None:
        """Stops reading: TCP then holds the broker, and the broker queues. Keep-alive goes on."""
        if not self.paused and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads again."""
        if self.paused and self._transport is not None:
            self.paused = False
            self.heard_at = self._loop_time()
            self._transport.resume_reading()

    async def disconnect(self) -> None:
        """Says DISCONNECT, keeping the session and the subscriptions at the broker, and waits for the broker to close.

        Closing first could cost the acknowledgements just written: what the broker has not read when the same client id
        connects anew is thrown away.
        """
        self._end("disconnected")
        if self._transport is None:
            return
        self._session.disconnect()
        self._flush()
        self._transport.resume_reading()
        await asyncio.wait({self._gone}, timeout=GOODBYE_S)
        if not self._gone.done():
            self._transport.abort()

    def close(self, reason: str) -> None:
        """Closes the socket after what is written has left."""
        if self._transport is not None:
            self._transport.close()
        self._end(reason)

    def _keep_rest(self, used: int, filled: int) -> None:
        rest = bytes(self._buffer[used:filled])
        needed = announced_size(memoryview(rest)) or 0
        if needed > len(self._buffer):
            self._buffer = memoryview(bytearray(needed + READ_BUFFER_BYTES))
        elif len(self._buffer) > READ_BUFFER_BYTES and needed <= READ_BUFFER_BYTES:
            self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._buffer[: len(rest)] = rest

    def _tell(self) -> None:
        events, self._session.events = self._session.events, []
        for event in events:
            match event:
                case Connected() if not self.connected.done():
                    self.connected.set_result(event)
                case Subscribed() if not self.subscribed.done():
                    self.subscribed.set_result(None)

    def _flush(self) -> None:
        if self._session.outgoing and self._transport is not None:
            self._transport.write(bytes(self._session.outgoing))
        self._session.outgoing.clear()

    def _end(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)


class Receiver:
    """Keeps one durable session connected and hands its messages over."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        name: str,
        client_id: str,
        subscriptions: tuple[Subscription, ...],
        deliver: Callable[[Deliveries], None],
        clock: Clock,
        metrics: ReceiverMetrics,
        session_expected: bool = False,
        receive_maximum: int | None = None,
    ) -> None:
        assert settings.url is not None, "mqtt.url is checked at start"
        self.name = name
        self._settings = settings
        self._url = urlsplit(settings.url.get_secret_value())
        self._host = self._url.hostname or "localhost"
        self._deliver = deliver
        self._clock = clock
        self._metrics = metrics
        self._session_expected = session_expected
        self._options = SessionOptions(
            client_id=client_id,
            subscriptions=subscriptions,
            username=unquote(self._url.username) if self._url.username else None,
            password=unquote(self._url.password).encode() if self._url.password else None,
            keep_alive_s=settings.keep_alive_s,
            session_expiry_s=settings.session_expiry_s,
            receive_maximum=receive_maximum or settings.receive_maximum,
            max_packet_bytes=settings.max_packet_bytes,
        )
        self._connection: Connection | None = None
        self._paused = False
        self._stopped = False
        self.ready = asyncio.Event()
        """Set while subscribed."""

    @property
    def paused(self) -> bool:
        """True while back-pressure holds the socket."""
        return self._paused

    def pause(self) -> None:
        """Back-pressure: stop reading this session's socket, also after a reconnect, until `resume`."""
        self._paused = True
        self._metrics.paused.labels(self.name).set(1)
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Ends `pause`."""
        if self._stopped:
            return
        self._paused = False
        self._metrics.paused.labels(self.name).set(0)
        if self._connection is not None:
            self._connection.resume()

    async def run(self) -> None:
        """Connects and stays connected until cancelled; then says DISCONNECT. Never raises for a broker's fault."""
        attempt = 0
        while True:
            try:
                reason = await self._serve()
                attempt = 0
            except (OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                attempt += 1
            self._note_loss(reason, attempt)
            # Full jitter: a thousand clients must not come back in step.
            bound = min(self._settings.reconnect_max_s, 0.2 * 2 ** min(attempt, 10))
            least = TAKEN_OVER_S if "taken over" in reason else 0.0  # two with one client id must not chase each other
            await asyncio.sleep(least + random.uniform(0, bound))  # noqa: S311 - not a secret

    def stop_reading(self) -> None:
        """First step of an orderly end: nothing more comes in, whoever resumes; acknowledgements still leave."""
        self._stopped = True
        self.pause()

    async def _serve(self) -> str:
        connection = await self._open()
        self._connection = connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._first(connection, connection.connected)
                self._note_connected(connection.connected.result())
                if self._paused:  # back-pressure holds across a reconnect; SUBACK is then read after `resume`
                    connection.pause()
                else:
                    await self._first(connection, connection.subscribed)
            connection.subscribed.add_done_callback(lambda _: self._set_ready(connection))
            return await self._watch(connection, connection.connected.result().keep_alive_s)
        finally:
            self.ready.clear()
            self._metrics.connected.labels(self.name).set(0)
            self._connection = None
            await connection.disconnect()

    def _set_ready(self, connection: Connection) -> None:
        if connection is self._connection and not connection.subscribed.cancelled():
            self.ready.set()
            self._metrics.connected.labels(self.name).set(1)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        tls = tls_context(self._settings) if self._url.scheme == "mqtts" else None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            transport, connection = await loop.create_connection(
                lambda: Connection(Session(self._options), self._deliver, self._clock),
                self._host,
                self._url.port or (8883 if tls else 1883),
                ssl=tls,
            )
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # While paused we cannot hear a PINGRESP; the kernel then tells whether our PINGREQ arrived.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._settings.keep_alive_s * 1500))
        return connection

    async def _first(self, connection: Connection, wanted: "asyncio.Future[Connected] | asyncio.Future[None]") -> None:
        await asyncio.wait({connection.closed, wanted}, return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise BrokerUnavailable(connection.closed.result())

    async def _watch(self, connection: Connection, keep_alive_s: int) -> str:
        """Sends PINGREQ every half keep-alive; gives up when nothing was heard for 1.5 of them (MQTT 5, 3.1.2.10)."""
        loop = asyncio.get_running_loop()
        while True:
            done, _ = await asyncio.wait({connection.closed}, timeout=keep_alive_s / 2)
            if done:
                return connection.closed.result()
            if not connection.paused and loop.time() - connection.heard_at > 1.5 * keep_alive_s:
                return f"nothing heard from the broker for {1.5 * keep_alive_s:.0f} s"
            connection.ping()

    def _note_connected(self, connected: Connected) -> None:
        present = connected.session_present
        self._metrics.session_present.labels(self.name).set(int(present))
        log.info("broker_connected", session=self.name, session_present=present)
        if self._session_expected and not present:
            self._metrics.sessions_lost.labels(self.name).inc()
            log.error(
                "session_lost",
                session=self.name,
                meaning="the broker forgot our session: what it had queued for us is gone",
                next="look at the seq gaps per device, and at the broker's persistence (docs/mqtt.md, session rules)",
            )
        self._session_expected = True

    def _note_loss(self, reason: str, attempt: int) -> None:
        self._metrics.reconnects.labels(self.name).inc()
        if attempt in {0, 1} or attempt % 20 == 0:
            log.warning("broker_lost", session=self.name, reason=reason, attempt=attempt)


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Returns the TLS context for mqtts: TLS 1.2 or newer, the server's name verified."""
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
