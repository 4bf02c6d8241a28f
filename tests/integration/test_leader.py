"""One active daemon per database: the lock is held by the very connection that commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from config.settings import DatabaseSettings
from factoryd.embedded.directory import free_port
from storage.database import Connection
from storage.leader import leadership
from tests.integration.conftest import Cluster, Database
from tests.integration.writing import query

TAKE_OVER_S = 5.0


def settings_for(url: str) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": url})


@dataclass
class Candidate:
    """One daemon that stands for leadership."""

    states: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    connection: Connection | None = None

    def note(self, state: str) -> None:
        self.states.append(state)
        self.changed.set()

    async def stand(self, url: str) -> None:
        async with leadership(settings_for(url), self.note) as self.connection:
            self.changed.set()
            await self.let_go.wait()

    async def until(self, state: str) -> None:
        async with asyncio.timeout(TAKE_OVER_S):
            while state not in self.states or (state == "active" and self.connection is None):
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def standing(url: str) -> AsyncIterator[Candidate]:
    candidate = Candidate()
    task = asyncio.create_task(candidate.stand(url))
    try:
        yield candidate
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_the_second_waits_and_takes_over_when_the_first_ends(database: Database) -> None:
    async with standing(database.daemon) as first:
        await first.until("active")
        async with standing(database.daemon) as second:
            await second.until("standby")
            assert second.states == ["standby"]
            first.let_go.set()
            await second.until("active")
            assert second.states == ["standby", "active"]


async def test_the_second_takes_over_when_the_first_is_killed(database: Database) -> None:
    async with standing(database.daemon) as first:
        await first.until("active")
        async with standing(database.daemon) as second:
            await second.until("standby")
            assert first.connection is not None
            query(database, "SELECT pg_terminate_backend(%s)", first.connection.info.backend_pid)
            await second.until("active")


async def test_a_standby_that_loses_its_connection_stands_again(database: Database) -> None:
    async with standing(database.daemon) as first:
        await first.until("active")
        async with standing(database.daemon) as second:
            await second.until("standby")
            assert first.connection is not None
            mine = first.connection.info.backend_pid
            text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = %s AND pid <> %s"
            assert query(database, text, database.name, "factoryd_daemon", mine) == [(True,)]
            first.let_go.set()
            await second.until("active")


async def test_a_lock_per_database(cluster: Cluster, database: Database) -> None:
    cluster.server.create_database("neighbour", "migrated")
    try:
        async with standing(database.daemon) as one, standing(cluster.database("neighbour").daemon) as other:
            await one.until("active")
            await other.until("active")
    finally:
        cluster.server.drop_database("neighbour")


async def test_no_database_is_waited_for() -> None:
    async with standing(f"postgresql://factoryd_daemon:x@127.0.0.1:{free_port()}/nothing") as candidate:
        await candidate.until("database")
        assert candidate.states == ["database"]


async def test_a_cancelled_standby_leaves_no_connection(database: Database) -> None:
    async with standing(database.daemon) as first:
        await first.until("active")
        async with standing(database.daemon) as second:
            await second.until("standby")
        assert second.connection is None
    async with asyncio.timeout(TAKE_OVER_S):
        text = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = 'factoryd_daemon'"
        while query(database, text, database.name) != [(0,)]:
            await asyncio.sleep(0.01)


async def test_an_error_of_the_leader_frees_the_lock(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with leadership(settings_for(database.daemon), lambda _: None):
            raise ZeroDivisionError
    async with standing(database.daemon) as next_one:
        await next_one.until("active")
