"""A connection that is in no hurry reads in bursts; who holds it has the last word."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import mqtt5

from mqtt.connection import Connection, Deliveries
from mqtt.session import Session

PACE_S = 0.01
PUBLISH = mqtt5.PublishPacket("t/a", b"1", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1)


class Transport(asyncio.Transport):
    """Knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.resumed = asyncio.Event()

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.resumed.set()


class Messages:
    """A session to which every read brings one message."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.outgoing = bytearray()

    def connect(self) -> None:
        """Says nothing."""

    def feed(self, data: memoryview) -> tuple[list[Any], int]:
        return [PUBLISH], len(data)


def connected(pace_s: float) -> tuple[Connection, Transport, list[Deliveries]]:
    heard: list[Deliveries] = []
    connection = Connection(cast("Session", Messages()), heard.append, lambda: datetime.now(UTC), pace_s)
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport, heard


async def test_after_messages_it_pauses_and_reads_on() -> None:
    connection, transport, heard = connected(PACE_S)
    connection.buffer_updated(4)
    assert (len(heard), transport.reading) == (1, False)
    async with asyncio.timeout(5):
        await transport.resumed.wait()
    assert transport.reading


async def test_who_is_in_a_hurry_never_pauses() -> None:
    connection, transport, _ = connected(0.0)
    connection.buffer_updated(4)
    assert transport.reading


async def test_a_held_connection_is_not_read_when_the_pause_is_over() -> None:
    connection, transport, _ = connected(PACE_S)
    connection.buffer_updated(4)
    connection.pause()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * PACE_S, over.set)
    await over.wait()
    assert not transport.reading
    connection.resume()
    assert transport.reading
