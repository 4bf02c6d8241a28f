"""Publishers with a ledger: what the broker acknowledged, the database must hold. The ledger, not the daemon, is the judge.

Every reading carries a number `n` of its own as an extra metric, so that rows can be told apart whatever their time. Three
kinds of devices: dated; undated with seq and boot_id; undated (at least once, by contract). No device mixes them: two readings
of the same microsecond, one dated and one placed there by us, would rightly be a conflict.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import mqtt5

KINDS = ("dated", "sequenced", "undated")


@dataclass(slots=True)
class Ledger:
    """Numbers of readings by kind: handed to the broker, and acknowledged by it with their wall-clock time."""

    sent: dict[str, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    acknowledged: dict[str, dict[int, float]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    sequence_of: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Of a sequenced reading: its device and seq."""

    @property
    def count(self) -> int:
        return sum(len(numbers) for numbers in self.acknowledged.values())


class Publisher:
    """One device: publishes at a rate, resends what was not acknowledged after a reconnect, and keeps the ledger."""

    def __init__(self, url: str, topic: str, device: str, ledger: Ledger, numbers: "Numbers", kind: str) -> None:
        self._kind = kind
        self._url = urlsplit(url)
        self._topic = topic
        self._device = device
        self._ledger = ledger
        self._numbers = numbers
        self._boot = f"boot-{random.randrange(1 << 30)}"
        self._seq = 0
        self._packet_id = 0
        self._in_flight: dict[int, tuple[str, int, str]] = {}
        self.stopping = False
        self.rate = 0.0
        self.limit = 1 << 60
        """Most messages per connection."""

    async def run(self) -> None:
        """Publishes until `stopping`, then until everything sent is acknowledged."""
        while not (self.stopping and not self._in_flight):
            try:
                await self._connected()
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)

    async def _connected(self) -> None:
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            writer.write(self._connect_packet())
            data = await asyncio.wait_for(reader.read(4096), 5)
            if not data:
                raise ConnectionResetError
            connack, _ = mqtt5.read(memoryview(data))
            assert isinstance(connack, mqtt5.ConnAckPacket), connack
            assert connack.reason_code is mqtt5.ConnAckReasonCode.SUCCESS, connack.reason_code
            for packet_id, (_, _, payload) in self._in_flight.items():
                writer.write(self._frame(packet_id, payload, again=True))
            async with asyncio.TaskGroup() as group:
                acks = group.create_task(self._read_acks(reader))
                await self._write(writer)
                while self._in_flight and not acks.done():
                    await asyncio.sleep(0.01)
                acks.cancel()
        except* (OSError, asyncio.IncompleteReadError, TimeoutError):
            raise ConnectionResetError from None
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        begin, sent = time.monotonic(), 0
        while not self.stopping:
            due = min(self.limit, int((time.monotonic() - begin) * self.rate))
            while sent < due and len(self._in_flight) < 1000:
                writer.write(self._next_frame())
                sent += 1
            await writer.drain()
            await asyncio.sleep(0.005)

    async def _read_acks(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while True:
            data = await reader.read(65536)
            if not data:
                raise ConnectionResetError
            rest += data
            position = 0
            while position < len(rest):
                try:
                    packet, size = mqtt5.read(memoryview(rest)[position:])
                except IndexError:
                    break
                position += size
                assert isinstance(packet, mqtt5.PubAckPacket), packet
                assert packet.reason_code is mqtt5.PubAckReasonCode.SUCCESS, packet.reason_code
                kind, number, _ = self._in_flight.pop(packet.packet_id)
                self._ledger.acknowledged[kind][number] = time.time()
            rest = rest[position:]

    def _next_frame(self) -> bytes:
        number = self._numbers.take()
        kind = self._kind
        body: dict[str, object] = {"n": number, "temperature": 20 + number % 50}
        if kind == "dated":
            body["recorded_at"] = datetime.now(UTC).isoformat()
        elif kind == "sequenced":
            self._seq += 1
            body |= {"seq": self._seq, "boot_id": self._boot}
            self._ledger.sequence_of[number] = (self._device, self._seq)
        self._ledger.sent[kind].add(number)
        self._packet_id = self._packet_id % 65_000 + 1
        payload = json.dumps(body)
        self._in_flight[self._packet_id] = (kind, number, payload)
        return self._frame(self._packet_id, payload)

    def _frame(self, packet_id: int, payload: str, *, again: bool = False) -> bytes:
        return mqtt5.PublishPacket(
            self._topic, payload.encode(), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id, duplicate=again
        ).write()

    def _connect_packet(self) -> bytes:
        return mqtt5.ConnectPacket(
            self._device,
            clean_start=True,
            username=unquote(self._url.username or ""),
            password=unquote(self._url.password or "").encode(),
        ).write()


class Numbers:
    """Gives each reading a number of its own."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        self._next += 1
        return self._next
