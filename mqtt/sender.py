"""One network connection that publishes: frames of the `mqtt5` codec, many of them in one write, PUBACKs by packet id.

Clean start, no session: what is not acknowledged when it ends was perhaps not taken. Why not a ready-made client:
docs/adr/0004-two-mqtt-clients.md.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

import mqtt5

from mqtt.receiver import BrokerUnavailable
from mqtt.session import announced_size

TIMEOUT_S = 10.0
"""Longest wait for a CONNACK or a PUBACK."""
GOODBYE_S = 1.0
MAX_PACKET_BYTES = 65_536
"""Of what the broker may send us: acknowledgements alone."""
LAST_PACKET_ID = 65_535
FIRST_FAILURE = 0x80
"""Of the reason codes (MQTT 5, 2.4)."""


class PublishRefused(Exception):
    """The broker acknowledged a message with a failure code, such as not authorised: it has not taken it, and will not."""


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """Where to, as whom, and what the broker says when we are gone. Times in seconds."""

    host: str
    port: int
    client_id: str
    username: str | None
    password: bytes | None
    keep_alive_s: int
    will: mqtt5.Will
    tls: ssl.SSLContext | None = None


class Sender(asyncio.Protocol):
    """A connection; `lost` is done, with the reason, when it has ended."""

    def __init__(self, options: SenderOptions) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._options = options
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._frames: list[bytes] = []
        self._packet_id = 0
        self._verdicts: dict[int, asyncio.Future[mqtt5.PubAckPacket | None]] = {}
        """By packet id; None: the connection is gone."""
        self._gone: asyncio.Future[None] = loop.create_future()
        self._heard_at = loop.time()
        self._pinging: asyncio.TimerHandle | None = None
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()

    @classmethod
    async def connected(cls, options: SenderOptions) -> "Sender":
        """Connects.

        Raises:
            OSError, TimeoutError: there is no broker, or it does not answer.
            BrokerUnavailable: it refused us.
        """
        async with asyncio.timeout(TIMEOUT_S):
            _, sender = await asyncio.get_running_loop().create_connection(
                lambda: cls(options), options.host, options.port, ssl=options.tls
            )
            try:
                either: set[asyncio.Future[Any]] = {sender.lost, sender.accepted}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not sender.accepted.done():
                    raise BrokerUnavailable(sender.lost.result())
            except BaseException:
                sender.abort()
                raise
        return sender

    async def deliver(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Publishes, and at QoS 1 waits for the PUBACK.

        Raises:
            BrokerUnavailable: whether the broker has it is unknown.
            PublishRefused: it has not, and will not.
        """
        packet_id = self.send(topic, payload, qos, retain)
        if packet_id is not None:
            await self.confirmed(topic, packet_id)

    def send(self, topic: str, payload: bytes, qos: int, retain: bool, correlation: bytes | None = None) -> int | None:
        """Writes a message, in order, with all others of this turn of the loop; returns the packet id for `confirmed`."""
        if self.lost.done():
            raise BrokerUnavailable(f"publishing to {topic}: the connection to the broker is down ({self.lost.result()})")
        packet_id = self._next_packet_id() if qos else None
        packet = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS(qos), retain=retain, packet_id=packet_id, correlation_data=correlation
        )
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(packet.write())
        if packet_id is not None:
            self._verdicts[packet_id] = self._loop.create_future()
        return packet_id

    async def confirmed(self, topic: str, packet_id: int) -> None:
        """Waits for the PUBACK."""
        answer, verdict = None, self._verdicts[packet_id]
        try:
            if verdict.done():  # of many in flight most have come when the first has: no timer for them
                answer = verdict.result()
            else:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await verdict
        except TimeoutError:
            pass
        finally:
            self._verdicts.pop(packet_id, None)
        if answer is None:
            raise BrokerUnavailable(f"publishing to {topic}: no acknowledgement before the connection or {TIMEOUT_S:g} s ended")
        if int(answer.reason_code) >= FIRST_FAILURE:
            words = answer.reason_code.name.replace("_", " ").capitalize()
            raise PublishRefused(f"the broker refused a message on {topic}: {words}; check our account's access rules")

    async def disconnect(self) -> None:
        """Says DISCONNECT (the will is not published), and waits for the broker to close."""
        self._flush()
        if self._transport is not None:
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._end("disconnected")
            await asyncio.wait({self._gone}, timeout=GOODBYE_S)
        self.abort()

    def abort(self) -> None:
        """Closes the socket at once."""
        self._end("closed")
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: says CONNECT."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        options = self._options
        packet = mqtt5.ConnectPacket(
            options.client_id,
            username=options.username,
            password=options.password,
            clean_start=True,
            will=options.will,
            keep_alive=options.keep_alive_s,
            max_packet_size=MAX_PACKET_BYTES,
        )
        transport.write(packet.write())

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._heard_at = self._loop.time()
        data = self._rest + data
        view, position = memoryview(data), 0
        try:
            while position < len(data):
                try:
                    packet, size = mqtt5.read(view[position:])
                except IndexError:  # the packet's end has not arrived yet
                    if (announced_size(view[position:]) or 0) > MAX_PACKET_BYTES:
                        raise ValueError("a packet larger than we announced") from None
                    break
                position += size
                self._take(packet)
        except BaseException as error:
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":  # text that is not UTF-8
                raise
            self._end(f"malformed packet from the broker: {error}")
            self.abort()
        self._rest = data[position:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop when the socket is gone."""
        self._transport = None
        self._end(f"connection lost: {exc}" if exc else "connection closed by the broker")
        self._gone.set_result(None)

    def _take(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                verdict = self._verdicts.get(packet.packet_id)
                if verdict is not None and not verdict.done():
                    verdict.set_result(packet)
            case mqtt5.ConnAckPacket() if packet.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
                why = packet.reason_code.name.lower().replace("_", " ")
                self._end(f"broker refused the connection: {why}")
            case mqtt5.ConnAckPacket() if not self.accepted.done():
                self.accepted.set_result(None)
                self._keep_alive((packet.server_keep_alive or self._options.keep_alive_s) / 2)
            case mqtt5.DisconnectPacket():
                self._end(f"broker disconnected us: {packet.reason_code.name.lower().replace('_', ' ')}")

    def _next_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % LAST_PACKET_ID + 1
            if self._packet_id not in self._verdicts:
                return self._packet_id

    def _flush(self) -> None:
        if self._frames and self._transport is not None:
            self._transport.write(b"".join(self._frames))
        self._frames.clear()

    def _keep_alive(self, period_s: float) -> None:
        """Sends PINGREQ every half keep-alive; gives up when nothing was heard for 1.5 of them (MQTT 5, 3.1.2.10)."""
        if self.lost.done() or self._transport is None:
            return
        if self._loop.time() - self._heard_at > 3 * period_s:
            self._end(f"nothing heard from the broker for {3 * period_s:.0f} s")
            self.abort()
            return
        self._transport.write(mqtt5.PingReqPacket().write())
        self._pinging = self._loop.call_later(period_s, self._keep_alive, period_s)

    def _end(self, reason: str) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        if not self.lost.done():
            self.lost.set_result(reason)
        for verdict in self._verdicts.values():
            if not verdict.done():
                verdict.set_result(None)
