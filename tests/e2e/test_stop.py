"""An orderly end in every state: prompt, nothing left behind, nothing lost and nothing stored twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import psycopg
import pytest

from console.health import State
from factoryd.daemon import Daemon
from factoryd.embedded.directory import free_port
from storage.leader import LOCK
from tests.e2e.client import Client
from tests.e2e.conftest import Plant, Running, dated, telemetry, until

BACKLOG = 30_000


async def test_stop_as_standby(plant: Plant) -> None:
    async with await psycopg.AsyncConnection.connect(plant.database.admin_url, autocommit=True) as leader:
        await leader.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        async with plant.begun() as running:
            await until(lambda: running.daemon.health.state is State.STANDBY)


@pytest.mark.parametrize("waiting_s", [0.0, 0.5])
async def test_stop_while_the_database_is_away(plant: Plant, waiting_s: float) -> None:
    url = f"postgresql://factoryd@127.0.0.1:{free_port()}/factory"
    async with plant.begun(database={"url": url, "owner_url": None}) as running:
        await running.daemon.listening
        await asyncio.sleep(waiting_s)  # attempts, and the pauses between them
        assert running.daemon.health.state is State.WAITING


async def test_stop_while_the_broker_is_away(plant: Plant) -> None:
    async with plant.begun(mqtt={"url": f"mqtt://127.0.0.1:{free_port()}"}) as running:
        await until(lambda: running.count("mqtt_reconnects_total", session="telemetry") > 0)
        assert not running.ready


@asynccontextmanager
async def _mute_server() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Takes connections and says nothing: a frozen host. Yields its port, and an event for the first connection."""
    came, writers = asyncio.Event(), []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        came.set()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1], came
        finally:
            for writer in writers:
                writer.close()


async def test_stop_while_the_database_is_frozen(plant: Plant) -> None:
    async with _mute_server() as (port, came):
        url = f"postgresql://factoryd@127.0.0.1:{port}/factory"
        async with plant.begun("psycopg", database={"url": url, "owner_url": None}):
            await came.wait()


async def test_stop_while_the_broker_is_frozen(plant: Plant) -> None:
    async with _mute_server() as (port, came), plant.begun(mqtt={"url": f"mqtt://127.0.0.1:{port}"}):
        await came.wait()


async def test_stop_at_once(plant: Plant) -> None:
    async with plant.begun():
        pass


async def test_stop_while_the_database_is_stuck(plant: Plant) -> None:
    """A commit that does not end is given up after shutdown_timeout_s; its readings stay with the broker."""
    await plant.register("stuck-1")
    async with await psycopg.AsyncConnection.connect(plant.database.admin_url) as lock, plant.client() as client:
        async with plant.running() as running:
            running.daemon.settings = running.daemon.settings.model_copy(update={"shutdown_timeout_s": 0.5})
            await lock.execute("LOCK TABLE sensor_readings")
            await client.publish(*telemetry("stuck-1", *dated(10)))
            await until(lambda: running.count("ingest_readings_in_flight") == 10)
        assert (running.received, running.verdicts()["returned"]) == (10, 10)
        await lock.rollback()
    async with plant.running() as running:
        await running.until_settled(10)
    assert await plant.rows() == 10


class _Load:
    """A device that does not stop talking."""

    def __init__(self, client: Client, device: str) -> None:
        self._client, self._device = client, device
        self.published = 0
        self.stopping = False

    async def run(self) -> None:
        for first in count(0, 200):
            if self.stopping:
                return
            await self._client.publish(*telemetry(self._device, *dated(200, first)))
            self.published = first + 200


async def test_stop_under_load(plant: Plant) -> None:
    """What was published before and after the stop is stored by the next daemon, and nothing twice."""
    await plant.register("busy-1")
    async with plant.client() as client:
        async with plant.running():
            pass  # from now on the broker keeps what comes
        load = _Load(client, "busy-1")
        talking = asyncio.create_task(load.run())
        async with plant.running() as running:
            await until(lambda: running.received > 1_000)
        load.stopping = True
        await talking
        stored = running.verdicts()["stored"]
        async with plant.running() as next_one:
            await next_one.until_settled(load.published - stored)
            assert next_one.verdicts() == Counter(stored=load.published - stored)
        assert await plant.rows() == load.published


async def test_stop_with_a_large_backlog(plant: Plant) -> None:
    """The rest stays at the broker, and the next daemon stores exactly the rest."""
    await plant.register("back-1")
    async with plant.client() as client:
        async with plant.running():
            pass  # from now on the broker keeps what comes
        await client.publish(*telemetry("back-1", *dated(BACKLOG)))
        async with plant.begun() as running:
            await until(lambda: running.received > 0)
        stored = running.verdicts()["stored"]
        assert 0 < stored < BACKLOG
        assert running.received == stored == await plant.rows()
        async with plant.running() as next_one:
            await next_one.until_settled(BACKLOG - stored)
            assert next_one.verdicts() == Counter(stored=BACKLOG - stored)
        assert await plant.rows() == BACKLOG


async def test_a_cancelled_daemon_leaves_nothing_behind(plant: Plant) -> None:
    """A supervisor cancels it, or a task beside the leader fails: nothing of it goes on."""
    before = asyncio.all_tasks()
    running = Running(Daemon(plant.settings()), asyncio.Event())
    task = asyncio.create_task(running.daemon.run(running.stopping), name="daemon")
    await running.until_ready()
    task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()
    left = asyncio.all_tasks() - before
    assert not left, [str(each) for each in left]
