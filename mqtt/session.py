"""The protocol half of the receiver, sans-I/O: bytes in, packets and bytes out. Where a reading's walk begins.

One `Session` is one network connection of one durable MQTT 5 session. It never touches a socket or a clock: `mqtt.receiver`
does. The order of calls: `connect()`, then `feed()` for whatever arrives; `outgoing` holds what must be written after each
call; `acknowledge()` once the messages are committed; `disconnect()` last.

Rules of docs/mqtt.md kept here: Clean Start 0 with a session expiry from the very first connect; an explicit Receive Maximum
below 65535; SUBSCRIBE after every CONNACK; PUBACK in the caller's order; retained messages only where asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from struct import pack
from typing import NoReturn

import mqtt5

PUBACK = 0x40020000
"""First four bytes of a PUBACK with reason Success, packet id 0 (MQTT 5, 3.4: the reason may be left out)."""

PUBLISH = 3
"""Packet type of a PUBLISH: upper half of its first byte."""

RECEIVE_MAXIMUM_LIMIT = 65534
"""The codec omits 65535, the standard's default; mosquitto then applies its own 20."""

Publish = mqtt5.PublishPacket
"""One received message as the codec gives it: topic, payload, qos, retain, packet_id, content_type."""


def stored_publish(topic: str, payload: bytes, content_type: str | None, qos: int) -> Publish:
    """Returns a message as it once came in, from what was kept of it."""
    packet_id = 1 if qos else None
    return Publish(topic, payload, qos=mqtt5.QoS(min(qos, 1)), packet_id=packet_id, content_type=content_type)


class ProtocolError(ConnectionError):
    """The broker broke the protocol or refused us; the connection is of no further use."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic filter; `retained` asks for retained messages at each (re-)subscription."""

    topic_filter: str
    retained: bool = False


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What CONNECT and SUBSCRIBE say. Times in seconds, sizes in bytes."""

    client_id: str
    subscriptions: tuple[Subscription, ...]
    username: str | None = None
    password: bytes | None = None
    keep_alive_s: int = 30
    session_expiry_s: int = 7 * 86400
    receive_maximum: int = 16384
    max_packet_bytes: int = 1_048_576

    def __post_init__(self) -> None:
        if not 1 <= self.receive_maximum <= RECEIVE_MAXIMUM_LIMIT:
            raise ValueError(f"receive_maximum must be 1 to {RECEIVE_MAXIMUM_LIMIT}, not {self.receive_maximum}")


@dataclass(frozen=True, slots=True)
class Connected:
    """CONNACK: the broker has let us in; `session_present` tells whether our queue was kept."""

    session_present: bool
    keep_alive_s: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """SUBACK: every filter was granted QoS 1."""


Event = Connected | Subscribed


class State(Enum):
    """Where a session stands."""

    NEW = "new"
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    READY = "ready"
    CLOSED = "closed"


class Session:
    """One connection of a durable session."""

    def __init__(self, options: SessionOptions) -> None:
        self.options = options
        self.state = State.NEW
        self.outgoing = bytearray()
        self.events: list[Event] = []

    def connect(self) -> None:
        """Queues CONNECT."""
        options = self.options
        self.state = State.CONNECTING
        self.outgoing += mqtt5.ConnectPacket(
            options.client_id,
            username=options.username,
            password=options.password,
            clean_start=False,
            keep_alive=options.keep_alive_s,
            session_expiry_interval=options.session_expiry_s,
            receive_max=options.receive_maximum,
            max_packet_size=options.max_packet_bytes,
        ).write()

    def feed(self, data: memoryview) -> tuple[list[Publish], int]:
        """Reads whole packets from the front of `data`.

        Returns:
            The messages in order of arrival, and how many bytes were used; the rest is the start of a packet.

        Raises:
            ProtocolError: a malformed or unexpected packet, a refused CONNECT or SUBSCRIBE, or a DISCONNECT.
        """
        publishes: list[Publish] = []
        position, end = 0, len(data)
        if end and self.state is State.CONNECTING and data[0] >> 4 == PUBLISH:
            self._fail("unexpected PublishPacket while connecting")
        read, publish = mqtt5.read, mqtt5.PublishPacket
        while position < end:
            try:
                packet, size = read(data[position:])
            except IndexError:  # the packet's end has not arrived yet
                self._check_announced_size(data[position:])
                break
            except ValueError as error:
                self._fail(f"malformed packet from the broker: {error}", error)
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # the codec's answer to text that is not UTF-8
                    raise
                self._fail(f"malformed packet from the broker: {error}", error)
            position += size
            if type(packet) is publish:
                publishes.append(packet)
            else:
                self._control(packet)
        return publishes, position

    def acknowledge(self, packet_ids: Sequence[int]) -> bytes:
        """Returns one PUBACK per packet id, in the order given, which must be the order of arrival."""
        return pack(f">{len(packet_ids)}I", *[PUBACK | packet_id for packet_id in packet_ids])

    def ping(self) -> None:
        """Queues PINGREQ."""
        self.outgoing += mqtt5.PingReqPacket().write()

    def disconnect(self) -> None:
        """Queues DISCONNECT; the session and its queue stay at the broker (the expiry of CONNECT goes on)."""
        self.state = State.CLOSED
        self.outgoing += mqtt5.DisconnectPacket().write()

    def _fail(self, why: str, cause: BaseException | None = None) -> NoReturn:
        self.state = State.CLOSED
        raise ProtocolError(why) from cause

    def _control(self, packet: mqtt5.Packet) -> None:
        match self.state, packet:
            case State.CONNECTING, mqtt5.ConnAckPacket():
                self._connected(packet)
            case State.SUBSCRIBING, mqtt5.SubAckPacket():
                self._subscribed(packet)
            case ((State.SUBSCRIBING | State.READY), mqtt5.PingRespPacket()):
                pass
            case _, mqtt5.DisconnectPacket():
                self._fail(f"broker disconnected us: {_words(packet.reason_code.name)}")
            case _:
                self._fail(f"unexpected {type(packet).__name__} while {self.state.value}")

    def _connected(self, packet: mqtt5.ConnAckPacket) -> None:
        if packet.reason_code is not mqtt5.ConnAckReasonCode.SUCCESS:
            self._fail(f"broker refused the connection: {_words(packet.reason_code.name)}{_because(packet.reason_str)}")
        keep_alive = packet.server_keep_alive or self.options.keep_alive_s  # 0: the broker does not watch us; we do
        self.state = State.SUBSCRIBING
        self.events.append(Connected(packet.session_present, keep_alive))
        self.outgoing += mqtt5.SubscribePacket(1, list(self._filters())).write()

    def _filters(self) -> Iterable[mqtt5.TopicFilter]:
        for subscription in self.options.subscriptions:
            yield mqtt5.TopicFilter(
                subscription.topic_filter,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                retain_as_published=False,  # then `retain` marks what was kept before we subscribed, and nothing else
                retain_handling=mqtt5.RetainHandling.SEND_ALWAYS if subscription.retained else mqtt5.RetainHandling.SEND_NEVER,
            )

    def _subscribed(self, packet: mqtt5.SubAckPacket) -> None:
        if len(packet.reason_codes) != len(self.options.subscriptions):
            self._fail(f"SUBACK answers {len(packet.reason_codes)} filters of {len(self.options.subscriptions)}")
        for subscription, code in zip(self.options.subscriptions, packet.reason_codes, strict=True):
            if code is not mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE:
                self._fail(
                    f"broker did not grant QoS 1 on {subscription.topic_filter!r}: {_words(code.name)}; "
                    "check the access rules of factoryd's account"
                )
        self.state = State.READY
        self.events.append(Subscribed())

    def _check_announced_size(self, data: memoryview) -> None:
        size = announced_size(data)
        if size is not None and size > self.options.max_packet_bytes:
            self._fail(f"packet of {size} bytes is larger than the {self.options.max_packet_bytes} we announced")


def announced_size(data: memoryview) -> int | None:
    """Returns the whole size of the packet that begins at `data`, in bytes, or None while its header is incomplete.

    Raises:
        ProtocolError: the length does not end within four bytes (MQTT 5, 1.5.5).
    """
    length = 0
    for index, byte in enumerate(data[1:5]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return 2 + index + length
    if len(data) >= 5:
        raise ProtocolError("malformed packet from the broker: variable byte integer longer than four bytes")
    return None


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""
