"""The ground all measurements stand on: the embedded services as shipped, a registered fleet, and the daemon as a process."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from bench.frames import DEVICES, device
from bench.publisher import Published
from factoryd.embedded.services import EmbeddedServices

ROOT = "factory"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since a process began, and its peak resident memory in bytes."""

    cpu_s: float
    peak_bytes: int


def usage(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, int(status["VmHWM"].split()[0]) * 1024)


def children_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it (PostgreSQL's backends); ended ones are counted in their parent."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it has ended since
        return 0.0
    own = sum(int(field) for field in fields[11:15]) / TICKS
    return own + sum(children_cpu_s(int(child)) for child in below)


class Product:
    """`factoryd run`, as a user starts it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._metrics_url = f"http://127.0.0.1:{port}/metrics"

    def metric(self, name: str) -> float:
        """Returns the sum over all labels of one metric, 0 if there is none."""
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    async def settled(self, count: float, timeout_s: float = 180) -> None:
        """Waits until so many readings are settled since the start; asks seldom, for each answer costs the daemon 1 ms."""
        deadline = time.monotonic() + timeout_s
        while await asyncio.to_thread(self.metric, "factoryd_ingest_readings_total") < count:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"the daemon settled too few readings; its log: {self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.25)

    def events(self) -> list[dict[str, str]]:
        """Returns the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def connected_at(self) -> float:
        """Epoch seconds at which the telemetry session was let in: from here on the queue is drained."""
        for event in self.events():
            if event["event"] == "broker_connected" and event["session"] == "telemetry":
                return datetime.fromisoformat(event["timestamp"]).timestamp()
        raise AssertionError(f"the daemon never connected; its log: {self.log.read_text()[-2000:]}")


@dataclass(slots=True)
class Ground:
    """Servers that run for the whole bench."""

    directory: Path
    services: EmbeddedServices
    http_port: int
    client_id: str = ""
    minute: int = 0

    @property
    def owner_url(self) -> str:
        assert self.services.urls.owner_url is not None
        return self.services.urls.owner_url

    def superuser_url(self) -> str:
        """The database, as the one who may do everything."""
        assert self.services.postgres is not None
        return self.services.postgres.url(urlsplit(self.owner_url).path.removeprefix("/"))

    @property
    def broker_url(self) -> str:
        assert self.services.urls.mqtt_tools_url is not None
        return self.services.urls.mqtt_tools_url

    @asynccontextmanager
    async def product(self) -> AsyncIterator[Product]:
        """The daemon, subscribed; ended by SIGTERM."""
        log = self.directory / "daemon.log"
        environment = {**os.environ, **self.services.urls.environment(), "FACTORYD_LOG__FORMAT": "json"}
        command = [sys.executable, "-m", "factoryd", "run"]
        process = await asyncio.to_thread(_start, command, environment, log)
        product = Product(process, self.http_port, log)
        try:
            while product.metric("factoryd_mqtt_connected") < 1:
                if process.poll() is not None:
                    raise RuntimeError(f"factoryd run ended: {log.read_text()[-2000:]}")
                await asyncio.sleep(0.02)
            yield product
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 60)

    async def publish(self, *options: str) -> Published:
        """Runs the generator to its end."""
        command = [sys.executable, "-m", "bench.publisher", self.broker_url, "--root", ROOT, *options]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0, f"the generator failed: {command}"
        return Published(**json.loads(output))

    async def null_subscriber(self, count: int, *options: str) -> asyncio.subprocess.Process:
        """Starts the yardstick on the daemon's own session, and returns when it is subscribed."""
        own = ["--client-id", self.client_id, "--root", ROOT, "--count", str(count)]
        return await self.subscriber("bench.null_subscriber", self.services.urls.mqtt_url, *own, *options)

    async def subscriber(self, module: str, *options: str) -> asyncio.subprocess.Process:
        """Starts a subscriber as a process of its own, and returns when it is subscribed."""
        command = [sys.executable, "-m", module, *options]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, limit=1 << 24)
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        return process

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Runs SQL as the schema's owner."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def superuser(self, statement: str) -> None:
        """Runs SQL that the owner may not run."""
        assert self.services.postgres is not None
        with psycopg.connect(self.services.postgres.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def last_commit(self) -> float:
        """Epoch seconds of the last commit of a reading, by PostgreSQL's own record."""
        newest = "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) FROM sensor_readings"
        return float(str(self.execute(newest)[0][0]))

    def clear_readings(self) -> None:
        """Forgets a warm-up, while the daemon runs on."""
        self.execute("TRUNCATE sensor_readings")

    def clear(self) -> None:
        """Empties what a run has written, so that each begins alike."""
        self.execute("TRUNCATE sensor_readings, device_latest, device_sequences, readings_1m, readings_1h, rollup_repairs")
        assert self.services.postgres is not None
        with psycopg.connect(self.services.postgres.url(), autocommit=True) as superuser:
            superuser.execute("CHECKPOINT")  # none shall fall into the next run


async def _remember_commit_times(services: EmbeddedServices) -> None:
    """The latency is measured by PostgreSQL's own record of each commit's time."""
    assert services.postgres is not None
    with psycopg.connect(services.postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    await services.postgres.astop()
    await services.postgres.astart()


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


@asynccontextmanager
async def prepared(directory: Path, postgres_bin_dir: Path | None = None) -> AsyncIterator[Ground]:
    """Starts the services and registers the fleet."""
    async with EmbeddedServices(directory / "services", postgres_bin_dir=postgres_bin_dir) as services:
        await _remember_commit_times(services)
        ground = Ground(directory, services, services.urls.http_port)
        names = ",".join(f"('{device(number)}','bench','press','bench')" for number in range(DEVICES))
        ground.execute(f"INSERT INTO devices (device_id, name, type, location) VALUES {names}")
        ground.client_id = str(ground.execute("SELECT value FROM daemon_state WHERE key = 'mqtt_client_id_telemetry'")[0][0])
        async with ground.product():
            pass  # its first connect makes the durable session
        yield ground
