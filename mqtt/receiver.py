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
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import structlog

from config.settings import MqttSettings
from mqtt.connection import Clock, Connection, Deliveries
from mqtt.metrics import ReceiverMetrics
from mqtt.session import Connected, Session, SessionOptions, Subscription

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 10.0
TAKEN_OVER_S = 5.0
REPEAT_S = 60.0
"""Between two lines in the log about one and the same loss."""


class BrokerUnavailable(ConnectionError):
    """The broker cannot be reached, refused us, or went away: try again."""


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
        pace_s: float = 0.0,
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
        self._pace_s = pace_s
        self._connection: Connection | None = None
        self._loss_told_at_s = float("-inf")
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
                lambda: Connection(Session(self._options), self._deliver, self._clock, self._pace_s),
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
        at_s = asyncio.get_running_loop().time()
        if attempt in {0, 1} or at_s - self._loss_told_at_s >= REPEAT_S:
            self._loss_told_at_s = at_s
            log.warning("broker_lost", session=self.name, reason=reason, attempt=attempt)


def tls_context(settings: MqttSettings) -> ssl.SSLContext:
    """Returns the TLS context for mqtts: TLS 1.2 or newer, the server's name verified."""
    context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file is not None:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context
