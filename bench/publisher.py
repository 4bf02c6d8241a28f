"""The load generator, a process of its own: `python -m bench.publisher URL …` prints one JSON line when all is acknowledged."""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import mqtt5

from bench.frames import HOT, device, frames, publish_frame, reading, storm_device

ACCEPTED = (mqtt5.PubAckReasonCode.SUCCESS, mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS)
PUBACK = b"\x40\x02\x00\x00"
"""Of success, as far as the packet's number."""
WINDOW = 2_000
"""Unacknowledged messages; mosquitto takes them as they come."""


@dataclass(frozen=True, slots=True)
class Published:
    """Epoch seconds of the first write and the last PUBACK."""

    started: float
    ended: float
    count: int


class Wire:
    """One MQTT connection that publishes bytes and counts PUBACKs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.acknowledged = 0

    @classmethod
    async def connect(cls, url: str) -> "Wire":
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        packet = mqtt5.ConnectPacket(
            f"bench-publisher-{time.time_ns()}",
            clean_start=True,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or "").encode(),
        )
        writer.write(packet.write())
        connack, _ = mqtt5.read(memoryview(await reader.read(4096)))
        assert isinstance(connack, mqtt5.ConnAckPacket), connack
        assert connack.reason_code is mqtt5.ConnAckReasonCode.SUCCESS, connack.reason_code
        return cls(reader, writer)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_pubacks(self) -> None:
        data = self._rest + await self._reader.read(1 << 18)
        if data == self._rest:
            raise ConnectionError("the broker closed the publisher's connection")
        view, position = memoryview(data), 0
        while position < len(data):
            try:
                packet, size = mqtt5.read(view[position:])
            except IndexError:
                break
            assert isinstance(packet, mqtt5.PubAckPacket), packet
            assert packet.reason_code in ACCEPTED, f"the broker refused a message: {packet.reason_code!r}"
            self.acknowledged += 1
            position += size
        self._rest = data[position:]

    async def count_pubacks(self) -> None:
        """As `read_pubacks` of nothing but successes, which have four bytes each: cheap, for who shares the machine."""
        data = self._rest + await self._reader.read(1 << 18)
        if data == self._rest:
            raise ConnectionError("the broker closed the publisher's connection")
        whole = len(data) // len(PUBACK) * len(PUBACK)
        heads = {data[:whole:4], data[1:whole:4]}
        assert heads <= {bytes([head]) * (whole // 4) for head in PUBACK[:2]}, "the broker refused a message"
        self.acknowledged += whole // 4
        self._rest = data[whole:]


async def publish_all(url: str, packets: list[bytes]) -> Published:
    """Publishes as fast as the broker acknowledges."""
    wire = await Wire.connect(url)
    started, sent = time.time(), 0
    while wire.acknowledged < len(packets):
        upto = min(len(packets), wire.acknowledged + WINDOW)
        if upto > sent:
            await wire.write(b"".join(packets[sent:upto]))
            sent = upto
        await wire.read_pubacks()
    return Published(started, time.time(), len(packets))


@dataclass(frozen=True, slots=True)
class Heat:
    """Which readings are beyond usual: every so many messages one of 95 °C; and a storm, in which every `storm_every`th is one,
    each of another device."""

    cross_every: int = 0
    storm_from: int = 0
    storm_until: int = 0
    storm_every: int = 1
    storm_value: float | None = HOT

    def of(self, number: int) -> tuple[str, float | None]:
        """Returns the device of a message, and its temperature if it is not the usual one."""
        since = number - self.storm_from
        if self.storm_from <= number < self.storm_until and since % self.storm_every == 0:
            return storm_device(since // self.storm_every), self.storm_value
        return device(number), HOT if self.cross_every and number % self.cross_every == 0 else None


async def publish_paced(url: str, root: str, rate: float, seconds: float, heat: Heat) -> Published:
    """Open loop: `rate` messages a second; each reading's recorded_at is the moment it is written to the socket."""
    wire = await Wire.connect(url)
    reading_task = asyncio.create_task(_read_all(wire, int(rate * seconds)))
    loop = asyncio.get_running_loop()
    started, begin, sent, total = time.time(), loop.time(), 0, int(rate * seconds)
    while sent < total:
        due = min(total, int((loop.time() - begin) * rate))
        for number in range(sent, due):
            name, temperature = heat.of(number)
            text = reading(datetime.now(UTC), number, temperature)
            await wire.write(publish_frame(root, name, text, number % 65_000 + 1))
        sent = max(sent, due)
        await asyncio.sleep(0.0005)
    await reading_task
    return Published(started, time.time(), total)


async def _read_all(wire: Wire, count: int) -> None:
    while wire.acknowledged < count:
        await wire.read_pubacks()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--root", default="factory")
    parser.add_argument("--start", type=datetime.fromisoformat)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--per-message", type=int, default=1)
    parser.add_argument("--repeat-every", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--cross-every", type=int, default=0)
    parser.add_argument("--storm-from", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--storm-for", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--storm-every", type=int, default=1)
    parser.add_argument("--calm", action="store_true", help="the storm's devices, as usual")
    options = parser.parse_args()
    if options.rate:
        begin = int(options.rate * options.storm_from)
        until = begin + int(options.rate * options.storm_for) if options.storm_for else 0
        heat = Heat(options.cross_every, begin, until, options.storm_every, None if options.calm else HOT)
        published = asyncio.run(publish_paced(options.url, options.root, options.rate, options.seconds, heat))
    else:
        ready = list(
            frames(
                options.root,
                options.start,
                options.count,
                per_message=options.per_message,
                repeat_every=options.repeat_every,
            )
        )
        published = asyncio.run(publish_all(options.url, ready))
    print(json.dumps(asdict(published)), flush=True)


if __name__ == "__main__":
    main()
