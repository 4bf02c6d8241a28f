"""What the receiver's tests share: a broker with any configuration, raw MQTT 5 clients, and a receiver that is watched."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mqtt5
from prometheus_client import CollectorRegistry

from config.settings import MqttSettings
from factoryd.embedded.directory import free_port
from mqtt.connection import Deliveries, acknowledge_all
from mqtt.metrics import ReceiverMetrics
from mqtt.receiver import Receiver
from mqtt.session import Publish, Subscription

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
CLIENT_ID = "factoryd-00112233445566778899aabbccddeeff"
PATIENCE_S = 10.0


@dataclass
class Broker:
    """mosquitto with the given lines after its first listener; `restart` forgets everything unless `persistence` is on."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [MOSQUITTO, "-c", str(self.directory / "mosquitto.conf")]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.process.poll() is None, "mosquitto did not start"
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        return
                await asyncio.sleep(0.005)

    def stop(self, how: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(PATIENCE_S)

    async def restart(self) -> None:
        self.stop()
        await self.start()


@asynccontextmanager
async def running_broker(directory: Path, *lines: str, listener: Iterable[str] = ()) -> AsyncIterator[Broker]:
    """`lines` are global, `listener` belongs to the first one; further listeners may follow in `listener`."""
    broker = Broker(directory, free_port())
    user = ["user root"] if os.geteuid() == 0 else []
    options = ["allow_anonymous true", "max_queued_messages 100000", "set_tcp_nodelay true"]
    config = [*user, *options, *lines, f"listener {broker.port} 127.0.0.1", *listener, ""]
    (directory / "mosquitto.conf").write_text("\n".join(config))
    await broker.start()
    try:
        yield broker
    finally:
        if broker.process is not None and broker.process.poll() is None:
            broker.stop()


@dataclass
class RawClient:
    """MQTT 5 with nothing between the test and the codec."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes = b""

    async def read(self) -> mqtt5.Packet:
        """Returns the next packet; raises IncompleteReadError when the broker has closed."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self.rest))
            except IndexError:
                more = await self.reader.read(65536)
                if not more:
                    raise asyncio.IncompleteReadError(self.rest, None) from None
                self.rest += more
            else:
                self.rest = self.rest[size:]
                return packet

    async def expect(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            packet = await self.read()
        assert isinstance(packet, kind), packet
        return packet

    def send(self, *packets: Any) -> None:
        self.writer.write(b"".join(packet.write() for packet in packets))


@asynccontextmanager
async def raw_client(port: int, client_id: str = "", **options: Any) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = RawClient(reader, writer)
    try:
        client.send(mqtt5.ConnectPacket(client_id, **{"clean_start": True, **options}))
        await client.expect(mqtt5.ConnAckPacket)
        yield client
    finally:
        writer.close()


async def publish(port: int, payloads: Sequence[bytes], topic: str = "t/a", **options: Any) -> None:
    """Publishes with QoS 1 and returns when the broker has acknowledged all."""
    async with raw_client(port) as client:
        for number, payload in enumerate(payloads, start=1):
            client.send(mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number, **options))
        for _ in payloads:
            await client.expect(mqtt5.PubAckPacket)


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


@dataclass
class Watched:
    """A receiver and all that it handed over."""

    receiver: Receiver
    registry: CollectorRegistry
    acknowledging: bool
    deliveries: list[Deliveries] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    before_ready: int = 0

    def deliver(self, deliveries: Deliveries) -> None:
        self.deliveries.append(deliveries)
        if not self.receiver.ready.is_set():
            self.before_ready += len(deliveries.publishes)
        if self.acknowledging:
            acknowledge_all([deliveries])
        self.news.set()

    @property
    def publishes(self) -> list[Publish]:
        return [publish for delivery in self.deliveries for publish in delivery.publishes]

    @property
    def payloads(self) -> list[bytes]:
        return [bytes(publish.payload) for publish in self.publishes]

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(f"factoryd_mqtt_{name}", {"session": "telemetry"})
        assert value is not None
        return value

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.receiver.ready.wait()

    async def settled(self) -> None:
        """Returns when the broker has read all that we wrote: it answers a PINGREQ in its turn."""
        connection = self.receiver._connection
        assert connection is not None
        before = connection.heard_at
        connection.ping()
        async with asyncio.timeout(PATIENCE_S):
            while connection.heard_at == before:
                await asyncio.sleep(0.001)

    async def lose_connection(self) -> None:
        """Breaks the socket under the receiver, and waits until it is subscribed again."""
        connection = self.receiver._connection
        assert connection is not None
        assert connection._transport is not None
        connection._transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            while self.receiver._connection is connection:
                await asyncio.sleep(0.001)
        await self.ready()

    async def marker(self, port: int) -> None:
        """Returns when everything that the broker had sent before has arrived."""
        await publish(port, [b"marker"], "t/marker")
        await self.until(lambda: b"marker" in self.payloads)


@asynccontextmanager
async def receiving(
    port: int, *, acknowledging: bool = True, session_expected: bool = False, url: str = "", **options: Any
) -> AsyncIterator[Watched]:
    """Runs a receiver; options that settings would refuse (a shorter keep-alive) are let through."""
    settings = MqttSettings.model_validate({"url": url or f"mqtt://127.0.0.1:{port}", "reconnect_max_s": 0.05})
    registry = CollectorRegistry()
    watched: Watched
    receiver = Receiver(
        settings.model_copy(update=options),
        name="telemetry",
        client_id=CLIENT_ID,
        subscriptions=(Subscription("t/+"),),
        deliver=lambda deliveries: watched.deliver(deliveries),  # noqa: PLW0108 - `watched` comes later, and tests replace it
        clock=lambda: datetime.now(UTC),
        metrics=ReceiverMetrics(registry),
        session_expected=session_expected,
    )
    watched = Watched(receiver, registry, acknowledging)
    task = asyncio.create_task(receiver.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), "run() never raises for a broker's fault"
