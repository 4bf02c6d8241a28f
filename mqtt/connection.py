"""One network connection to the broker: bytes between the socket and a `Session`, and what it hands over.

Messages leave it in lists, with the connection that brought them: their acknowledgement goes nowhere else.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mqtt.session import Connected, ProtocolError, Publish, Session, Subscribed, announced_size

READ_BUFFER_BYTES = 256 * 1024
GOODBYE_S = 1.0
"""Longest wait for the broker to close after our DISCONNECT."""

Clock = Callable[[], datetime]
"""Wall clock: aware UTC."""


@dataclass(slots=True, eq=False)
class Deliveries:
    """Messages that one read of the socket brought, in order of arrival, and the connection that brought them."""

    publishes: Sequence[Publish]
    received_at: datetime
    connection: "Connection"


@dataclass(slots=True, eq=False)
class Receipt:
    """What an acknowledgement needs of `Deliveries`: to be kept, without their payloads, by who acknowledges late."""

    packet_ids: Sequence[int]
    connection: "Connection"

    @classmethod
    def of(cls, deliveries: Deliveries) -> "Receipt":
        """Returns the receipt; it has no packet ids if all messages came with QoS 0."""
        return cls([each.packet_id for each in deliveries.publishes if each.packet_id is not None], deliveries.connection)


def acknowledge_all(deliveries: Iterable[Deliveries]) -> None:
    """Tells the broker that these messages are safe: in order of arrival, one write per connection."""
    acknowledge_receipts(map(Receipt.of, deliveries))


def acknowledge_receipts(receipts: Iterable[Receipt]) -> None:
    """As `acknowledge_all`."""
    by_connection: dict[Connection, list[int]] = {}
    for receipt in receipts:
        by_connection.setdefault(receipt.connection, []).extend(receipt.packet_ids)
    for connection, packet_ids in by_connection.items():
        connection.acknowledge(packet_ids)


class Connection(asyncio.BufferedProtocol):
    """One network connection: moves bytes between the socket and a `Session`. `closed` ends with it."""

    def __init__(self, session: Session, deliver: Callable[[Deliveries], None], clock: Clock, pace_s: float = 0.0) -> None:
        """Prepares one connection.

        Args:
            session: whose it is.
            deliver: is given messages as they come, in lists.
            clock: says when they came.
            pace_s: least time between two reads that bring messages: who is in no hurry takes more at a time.
        """
        self._session = session
        self._pace_s = pace_s
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
            if self._pace_s and self._transport is not None:
                self._transport.pause_reading()
                asyncio.get_running_loop().call_later(self._pace_s, self._read_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop when the socket is gone."""
        self._transport = None
        self._gone.set_result(None)
        self._end(f"connection lost: {exc}" if exc else "connection closed by the broker")

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """Writes one PUBACK per packet id, in one write; nothing if this connection is gone."""
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

    def _read_on(self) -> None:
        if not self.paused and self._transport is not None and not self._transport.is_closing():
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
