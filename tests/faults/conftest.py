"""The whole product on real servers: the daemon as a process, killed and started as an operating system would."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from config.settings import DatabaseSettings
from factoryd.embedded.directory import free_port
from factoryd.embedded.services import EmbeddedServices
from mqtt.topics import telemetry
from storage.integrity import verify
from tests.faults.load import KINDS, Ledger, Numbers, Publisher

DEVICES = 10
ROOT = "factory"


class Plant:
    """Servers, devices, publishers and any number of daemons."""

    def __init__(self, directory: Path, services: EmbeddedServices) -> None:
        self.directory = directory
        self.services = services
        self.ledger = Ledger()
        self.numbers = Numbers()
        self.settings: dict[str, str] = {}
        """Of the daemons, as environment variables."""
        self._publishers: list[Publisher] = []
        self._daemons: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def names(self) -> list[str]:
        return [f"press-{number}" for number in range(DEVICES)]

    def start_daemon(self, *command: str) -> int:
        """Starts `factoryd run`, or that command of Python's; returns its HTTP port."""
        port = free_port()
        environment = {**os.environ, **self.services.urls.environment(), "FACTORYD_HTTP__PORT": str(port), **self.settings}
        with (self.directory / f"daemon-{port}.log").open("wb") as log:
            words = [sys.executable, *(command or ("-m", "factoryd", "run"))]
            self._daemons[port] = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        return port

    async def died(self, port: int, timeout_s: float = 30) -> bool:
        """Waits until a daemon has ended by itself; False: it has not."""
        try:
            await asyncio.to_thread(self._daemons[port].wait, timeout_s)
        except subprocess.TimeoutExpired:
            return False
        del self._daemons[port]
        return True

    def kill_daemon(self, port: int, number: signal.Signals = signal.SIGKILL) -> None:
        process = self._daemons.pop(port)
        process.send_signal(number)
        process.wait(60)

    def stop_all(self) -> None:
        for port in list(self._daemons):
            self.kill_daemon(port, signal.SIGTERM)

    def log(self, port: int) -> str:
        return (self.directory / f"daemon-{port}.log").read_text()

    async def metrics(self, port: int) -> dict[str, float]:
        """Returns every sample of a daemon, by name with labels; nothing while it cannot answer."""

        def fetch() -> dict[str, float]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    lines = answer.read().decode().splitlines()
            except OSError:
                return {}
            pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
            return {name: float(value) for name, value in pairs}

        return await asyncio.to_thread(fetch)

    async def assert_accounted_for(self, port: int) -> None:
        """received = stored + merged + duplicate + quarantined + returned + in flight, as one scrape has it."""
        samples = await self.metrics(port)
        settled = {name: value for name, value in samples.items() if name.startswith("factoryd_ingest_readings_total{")}
        in_flight = samples["factoryd_ingest_readings_in_flight"]
        assert samples["factoryd_ingest_readings_received_total"] == sum(settled.values()) + in_flight, (settled, in_flight)

    async def answering(self, port: int, timeout_s: float = 30) -> None:
        """Waits until a daemon's process is there, whether it leads or not."""
        started = time.monotonic()
        while not await self.metrics(port):
            assert time.monotonic() < started + timeout_s, f"no answer; its log:\n{self.log(port)[-3000:]}"
            await asyncio.sleep(0.02)

    async def connected(self, port: int, timeout_s: float = 30) -> float:
        """Waits until a daemon is subscribed; returns how long that took, in seconds."""
        started = time.monotonic()
        while (await self.metrics(port)).get('factoryd_mqtt_connected{session="telemetry"}') != 1:
            assert time.monotonic() < started + timeout_s, f"not connected; its log:\n{self.log(port)[-3000:]}"
            await asyncio.sleep(0.02)
        return time.monotonic() - started

    @asynccontextmanager
    async def load(self, rate: float) -> AsyncIterator[None]:
        """Publishes at `rate` messages a second in all; at the end everything sent is acknowledged by the broker."""
        if not self._publishers:  # they go on where they were: one boot, one sequence each
            url = self.services.urls.mqtt_tools_url
            assert url is not None
            self._publishers += [
                Publisher(url, telemetry(ROOT, name), name, self.ledger, self.numbers, KINDS[place % len(KINDS)])
                for place, name in enumerate(self.names)
            ]
        async with asyncio.TaskGroup() as group:
            for publisher in self._publishers:
                publisher.stopping, publisher.rate = False, rate / DEVICES
                group.create_task(publisher.run())
            yield
            for publisher in self._publishers:
                publisher.stopping = True

    async def settled(self, port: int, timeout_s: float = 60) -> None:
        """Waits until the broker's queue is empty and everything received is settled: a last reading has its row."""
        marker = self.numbers.take()
        await self._publish_marker(marker)
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(self.execute, f"SELECT 1 FROM sensor_readings WHERE extra->>'n' = '{marker}'"):
            assert time.monotonic() < deadline, f"the marker never came; the daemon's log:\n{self.log(port)[-3000:]}"
            await asyncio.sleep(0.05)

    async def _publish_marker(self, marker: int) -> None:
        url = self.services.urls.mqtt_tools_url
        assert url is not None
        publisher = Publisher(url, telemetry(ROOT, self.names[0]), "marker", self.ledger, _Fixed(marker), "dated")
        publisher.rate, publisher.limit = 1000, 1
        task = asyncio.create_task(publisher.run())
        while marker not in self.ledger.acknowledged["dated"]:
            await asyncio.sleep(0.01)
        publisher.stopping = True
        await task

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        owner = self.services.urls.owner_url
        assert owner is not None
        with psycopg.connect(owner, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def stored(self) -> dict[int, int]:
        """Returns how many rows each numbered reading has."""
        rows = self.execute("SELECT (extra->>'n')::int, count(*) FROM sensor_readings GROUP BY 1")
        return {int(str(number)): int(str(count)) for number, count in rows}

    def assert_nothing_lost_or_doubled(self) -> None:
        """What the broker acknowledged is stored: exactly once, or at least once where the contract says so."""
        stored = self.stored()
        for kind, numbers in self.ledger.acknowledged.items():
            lost = [number for number in numbers if number not in stored]
            kept = self.execute("SELECT reason, detail, convert_from(payload, 'UTF8') FROM quarantine LIMIT 10")
            assert not lost, f"{len(lost)} of {len(numbers)} {kind} readings lost: {sorted(lost)[:10]}; quarantine: {kept}"
            if kind != "undated":
                doubled = [number for number in numbers if stored[number] != 1]
                assert not doubled, f"{len(doubled)} {kind} readings doubled: {doubled[:10]}"
        sent = set().union(*self.ledger.sent.values())
        assert set(stored) <= sent, "readings that nobody sent"


class _Fixed(Numbers):
    """One given number, again and again: it is the same reading."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def take(self) -> int:
        return self._number


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    """A plant with registered devices and no daemon yet; whatever a test does to it, all must agree in the end."""
    async with EmbeddedServices(
        tmp_path / "services", http_port=free_port(), readings_days=2, partitions_ahead_days=1
    ) as services:
        plant = Plant(tmp_path, services)
        names = ",".join(f"('{name}','press','press','hall')" for name in plant.names)
        plant.execute(f"INSERT INTO devices (device_id, name, type, location) VALUES {names}")
        try:
            yield plant
        finally:
            plant.stop_all()
        settings = DatabaseSettings.model_validate({"url": services.urls.database_url})
        assert [problem for checked in verify(settings) for problem in checked.problems] == []
