"""What the simulator's tests share: a broker of their own, somebody who observes it, and small plans."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt

from factoryd.embedded.directory import free_port
from simulator.connection import Broker
from simulator.devices import SimulatedDevice
from simulator.factory import Factory, SimulationPlan
from simulator.reading import Encoding

MOSQUITTO = "/usr/sbin/mosquitto"
ROOT = "test/sim"
INTERVAL_S = 0.05
PRESS = SimulatedDevice("press-01", "press", "hall 1", INTERVAL_S, has_extras=True)
CNC = SimulatedDevice("cnc-01", "cnc", "hall 1", INTERVAL_S, encoding=Encoding.MSGPACK)
GATEWAY = SimulatedDevice("gateway-01", "sensor", "storage", INTERVAL_S)
CHILD = SimulatedDevice("plc-01", "conveyor", "hall 2", INTERVAL_S, via="gateway-01")


@dataclass
class Mosquitto:
    """A broker of this test's own; `kill` and `start` keep its port."""

    config: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self.config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "mosquitto did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("mosquitto does not listen")

    def kill(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(10)


@contextmanager
def running_mosquitto(directory: Path, *lines: str) -> Iterator[Mosquitto]:
    port = free_port()
    config = directory / "mosquitto.conf"
    access = lines or ("allow_anonymous true",)
    user = ("user root",) if os.geteuid() == 0 else ()
    config.write_text("\n".join([f"listener {port} 127.0.0.1", "persistence false", *user, *access, ""]))
    broker = Mosquitto(config, port)
    broker.start()
    try:
        yield broker
    finally:
        if broker.process is not None and broker.process.poll() is None:
            broker.kill(signal.SIGTERM)


@dataclass
class Observer:
    """Everything published below the root, as it came."""

    messages: list[tuple[str, bytes, bool]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def payloads(self, device: str, leaf: str = "telemetry") -> list[bytes]:
        return [payload for topic, payload, _ in self.messages if topic == f"{ROOT}/devices/{device}/{leaf}"]

    def statuses(self, device: str) -> list[str]:
        return [json.loads(payload)["status"] for payload in self.payloads(device, "status")]

    def readings(self, device: str, decode: Callable[[bytes], Any] = json.loads) -> list[dict[str, Any]]:
        found = [decode(payload) for payload in self.payloads(device)]
        return [reading for item in found for reading in (item if isinstance(item, list) else [item])]

    def sequence(self, device: str) -> list[int]:
        return [reading["seq"] for reading in self.readings(device)]


@asynccontextmanager
async def observing(broker: Mosquitto, username: str | None = None, password: str | None = None) -> AsyncIterator[Observer]:
    observer = Observer()
    options: dict[str, Any] = {"username": username, "password": password}
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5, **options) as client:
        await client.subscribe(f"{ROOT}/#", qos=1)
        watching = asyncio.create_task(watch(client, observer))
        try:
            yield observer
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def watch(client: aiomqtt.Client, observer: Observer) -> None:
    async for message in client.messages:
        assert isinstance(message.payload, bytes)
        observer.messages.append((str(message.topic), message.payload, message.retain))
        observer.news.set()


@asynccontextmanager
async def running(plan: SimulationPlan) -> AsyncIterator[Factory]:
    factory = Factory(plan)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(factory.run())
        yield factory
        factory.stop()


def plan_for(broker: Mosquitto, *devices: SimulatedDevice, **options: Any) -> SimulationPlan:
    options = {"stagger_s": 0.0, "reconnect_max_s": 0.2} | options
    return SimulationPlan(Broker("127.0.0.1", broker.port, root=ROOT, timeout_s=5.0), devices, **options)
