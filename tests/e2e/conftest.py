"""The daemon as a whole, in this process, on real servers: what it is given, what it says, and what the database holds."""

import asyncio
import gc
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from config.settings import Settings
from factoryd.daemon import Daemon
from ingest.reading import Verdict
from tests.e2e.client import WITHIN_S, Client, Message
from tests.services import Broker, FreshDatabase

ROOT = "factory"
STOPS_WITHIN_S = 2.0
START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)


def at(seconds: float) -> str:
    """Returns a time for `recorded_at`, within the last half hour."""
    return (START + timedelta(seconds=seconds)).isoformat()


async def until(condition: Callable[[], bool], what: Callable[[], object] = lambda: "", within_s: float = WITHIN_S) -> None:
    """Waits for what another task or process brings about."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what()}") from None


class Running:
    """One daemon that runs, seen from outside."""

    def __init__(self, daemon: Daemon, stopping: asyncio.Event) -> None:
        self.daemon = daemon
        self.stopping = stopping

    @property
    def ready(self) -> bool:
        return self.daemon.health.readiness().ok

    def count(self, name: str, **labels: str) -> int:
        value = self.daemon.registry.get_sample_value(f"factoryd_{name}", labels)
        assert value is not None, name
        return int(value)

    def verdicts(self) -> Counter[str]:
        names = [verdict.value for verdict in Verdict]
        return Counter({name: self.count("ingest_readings_total", verdict=name) for name in names})

    @property
    def received(self) -> int:
        """How many readings came in; the accounting identity must hold at any moment, and is looked at here."""
        received, in_flight = self.count("ingest_readings_received_total"), self.count("ingest_readings_in_flight")
        verdicts = self.verdicts()
        assert received == verdicts.total() + in_flight, (received, in_flight, verdicts)
        return received

    async def until_ready(self) -> None:
        await until(lambda: self.ready, lambda: self.daemon.health.readiness().summary)

    async def until_settled(self, received: int) -> None:
        """Waits until so many readings came in and none is in flight."""
        await until(
            lambda: self.received >= received and not self.count("ingest_readings_in_flight"),
            lambda: f"{self.received} of {received} came; {self.verdicts()}; {self.daemon.health.readiness().summary}",
        )
        assert self.received == received

    async def stopped(self, task: "asyncio.Task[None]", within_s: float = STOPS_WITHIN_S) -> None:
        """Stops it, as SIGTERM does."""
        started = time.monotonic()
        self.stopping.set()
        await asyncio.wait({task}, timeout=within_s + 5)
        took = time.monotonic() - started
        assert task.done(), f"still running {took:.1f} s after its stop: {_tasks()}"
        task.result()
        assert took < within_s, f"stopped only after {took:.1f} s"


class Plant:
    """One database, the session's broker, and any number of daemons on them."""

    def __init__(self, database: FreshDatabase, broker: Broker) -> None:
        self.database, self.broker = database, broker
        self.session_ids = {name: f"factoryd-{secrets.token_hex(16)}" for name in ("telemetry", "control")}
        self.unraisable: list[dict[str, Any]] = []

    def settings(self, **changes: dict[str, Any]) -> Settings:
        """Returns settings for these servers; `changes` by section win."""
        sections: dict[str, dict[str, Any]] = {
            "database": {"url": self.database.daemon_url, "owner_url": self.database.owner_url},
            "mqtt": {"url": self.broker.url, "root": ROOT},
            "presence": {"write_interval_s": 0.1},
            "retention": {"readings_days": 2, "partitions_ahead_days": 1},
            "http": {"port": 0},
        }
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        return Settings.model_validate(sections)

    @asynccontextmanager
    async def begun(self, lingering: str = "", /, **changes: dict[str, Any]) -> AsyncIterator[Running]:
        """Runs a daemon; at the end of the block it is stopped, and must leave nothing behind.

        Args:
            lingering: coroutines of a library (a part of their names) that a frozen server may hold a little longer.
            changes: of settings, by section.
        """
        before = asyncio.all_tasks()
        running = Running(Daemon(self.settings(**changes)), asyncio.Event())
        task = asyncio.create_task(running.daemon.run(running.stopping), name="daemon")
        try:
            yield running
            await running.stopped(task)
            gc.collect()
            left = [str(task) for task in asyncio.all_tasks() - before if not lingering or lingering not in str(task)]
            assert not left, left
            assert not self.unraisable, self.unraisable
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=10)

    @asynccontextmanager
    async def running(self, **changes: dict[str, Any]) -> AsyncIterator[Running]:
        """As `begun`, and ready."""
        async with self.begun(**changes) as running:
            await running.until_ready()
            yield running

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with Client.connected(self.broker.tools_url) as client:
            yield client

    async def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Runs one statement as the superuser, without blocking: the daemon runs in this very loop."""
        async with await psycopg.AsyncConnection.connect(self.database.admin_url, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []

    async def value(self, statement: str, *values: object) -> Any:
        ((value,),) = await self.sql(statement, *values)
        return value

    async def register(self, *names: str) -> None:
        await self.sql(
            "INSERT INTO devices (device_id, name, type, location) SELECT n, n, 'press', 'hall' FROM unnest(%s::text[]) AS n",
            list(names),
        )

    async def rows(self) -> int:
        return int(await self.value("SELECT count(*) FROM sensor_readings"))

    async def quarantined(self, condition: str = "true") -> int:
        return int(await self.value(f"SELECT coalesce(sum(repeats), 0) FROM quarantine WHERE {condition}"))

    async def until_sql(self, statement: str, expected: object) -> None:
        """Waits until the one value is as expected."""
        found: object = None
        try:
            async with asyncio.timeout(WITHIN_S):
                while (found := await self.value(statement)) != expected:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{statement}: {found!r}, not {expected!r}") from None

    async def forget(self) -> None:
        """The broker is the test session's: what one test leaves retained would be another's devices."""
        await self.forget_sessions()
        async with self.client() as client:
            await client.forget_retained(ROOT)

    async def forget_sessions(self) -> None:
        """The broker is the test session's: what it keeps for this test's daemons would stay for hours."""
        for client_id in self.session_ids.values():
            async with Client.connected(self.broker.url, client_id):
                pass


@pytest.fixture
async def plant(database: FreshDatabase, mosquitto: Broker) -> AsyncIterator[Plant]:
    """Databases are copies of one template, secret client ids included: each test gets its own, or sessions would mix."""
    plant = Plant(database, mosquitto)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: plant.unraisable.append(context))
    for name, client_id in plant.session_ids.items():
        await plant.sql("UPDATE daemon_state SET value = %s WHERE key = %s", client_id, f"mqtt_client_id_{name}")
    with _usual_garbage_collection():
        yield plant
    await plant.forget()


def telemetry(device: str, *payloads: bytes, qos: int = 1, retain: bool = False) -> list[Message]:
    return [Message(f"{ROOT}/devices/{device}/telemetry", payload, qos, retain) for payload in payloads]


def status(device: str, payload: bytes) -> Message:
    return Message(f"{ROOT}/devices/{device}/status", payload, retain=True)


def dated(count: int, first: int = 0, spacing_s: float = 0.01) -> Iterable[bytes]:
    """Returns so many readings of rising times, each with a number of its own."""
    return [b'{"recorded_at":"%s","rpm":%d}' % (at(n * spacing_s).encode(), n) for n in range(first, first + count)]


def _tasks() -> list[str]:
    return [str(task) for task in asyncio.all_tasks()]


@contextmanager
def _usual_garbage_collection() -> Iterator[None]:
    """The daemon tunes it for its process; this one has other tests to run."""
    threshold = gc.get_threshold()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
