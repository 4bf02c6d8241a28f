"""A client of the broker that publishes many messages at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import mqtt5

WITHIN_S = 10.0
IN_FLIGHT = 500
"""Fewer than the broker's receive maximum."""


class Message(NamedTuple):
    """One message for the broker."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    content_type: str | None = None


class Client:
    """MQTT 5 under the tools' account: publishes many messages at a time, and keeps what it has subscribed to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._rest = reader, writer, b""
        self._packet_id = 0

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, client_id: str = "") -> AsyncIterator["Client"]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        client = cls(reader, writer)
        user, password = unquote(parts.username or ""), unquote(parts.password or "").encode()
        try:
            writer.write(mqtt5.ConnectPacket(client_id, clean_start=True, username=user, password=password).write())
            answer = await client.read(mqtt5.ConnAckPacket)
            assert answer.reason_code is mqtt5.ConnAckReasonCode.SUCCESS, answer
            yield client
        finally:
            writer.write(mqtt5.DisconnectPacket().write())
            writer.close()
            await writer.wait_closed()

    async def read(self, kind: type[Any]) -> Any:
        """Returns the next packet of that kind, soon; others are passed over."""
        async with asyncio.timeout(WITHIN_S):
            return await self.read_next(kind)

    async def read_next(self, kind: type[Any]) -> Any:
        """As `read`, and waits as long as it takes."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._rest))
            except IndexError:
                more = await self._reader.read(1 << 16)
                assert more, "the broker closed the connection"
                self._rest += more
                continue
            self._rest = self._rest[size:]
            if isinstance(packet, kind):
                return packet

    async def subscribe(self, topic: str, number: int = 1) -> None:
        subscription = mqtt5.TopicFilter(topic, max_qos=mqtt5.QoS.AT_MOST_ONCE, retain_as_published=False)
        self._writer.write(mqtt5.SubscribePacket(number, [subscription]).write())
        await self.read(mqtt5.SubAckPacket)

    async def publish(self, *messages: Message) -> None:
        """Returns when the broker has acknowledged all that have QoS 1."""
        for first in range(0, len(messages), IN_FLIGHT):
            part = messages[first : first + IN_FLIGHT]
            self._writer.write(b"".join(map(self._packet, part)))
            await self._writer.drain()
            for _ in range(sum(message.qos for message in part)):
                await self.read(mqtt5.PubAckPacket)

    async def forget_retained(self, root: str) -> None:
        """Clears all that the broker retains below a root."""
        end = f"{root}/end-of-retained/{id(self)}"
        await self.subscribe(f"{root}/#")
        await self.publish(Message(end, b"", qos=0))
        retained = []
        while (packet := await self.read(mqtt5.PublishPacket)).topic != end:
            retained.append(Message(packet.topic, b"", retain=True))
        await self.publish(*retained)

    def _packet(self, message: Message) -> bytes:
        self._packet_id = self._packet_id % 65_000 + 1
        return mqtt5.PublishPacket(
            message.topic,
            message.payload,
            qos=mqtt5.QoS(message.qos),
            packet_id=self._packet_id if message.qos else None,
            retain=message.retain,
            content_type=message.content_type,
        ).write()
