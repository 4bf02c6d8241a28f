"""The composition root on real servers, in this process: waiting, giving up, and ending in time."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from config.settings import DatabaseSettings, Settings
from factoryd.daemon import Daemon
from storage.database import DatabaseUnavailable, connect
from storage.maintenance import maintenance_connection
from storage.migrate import SchemaOutdated
from tests.integration.conftest import Database
from tests.integration.plant import until
from tests.integration.writing import query

BROKEN = """
ALTER TABLE daemon_state RENAME TO daemon_state_kept;
CREATE FUNCTION refuse() RETURNS TABLE (key text, value text) LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$;
CREATE VIEW daemon_state AS SELECT * FROM refuse();
GRANT SELECT ON daemon_state TO factoryd_daemon
"""


def settings_for(url: str) -> Settings:
    values: dict[str, Any] = {"database": {"url": url}, "mqtt": {"url": "mqtt://127.0.0.1:1"}, "http": {"port": 0}}
    return Settings.model_validate(values)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_fails_after_the_lock_is_not_hammered(database: Database) -> None:
    with psycopg.connect(database.owner) as owner:
        owner.execute(BROKEN)
    stop = asyncio.Event()
    with capture_logs() as events:
        running = asyncio.create_task(Daemon(settings_for(database.daemon)).run(stop))
        await asyncio.sleep(1.5)
        stop.set()
        await running
    stands = sum(event["event"] == "leadership_changed" for event in events)
    assert 2 <= stands <= 12, events


async def test_an_outdated_schema_ends_it(empty_database: Database) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await Daemon(settings_for(empty_database.daemon)).run(asyncio.Event())
    assert [type(error) for error in raised.value.exceptions] == [SchemaOutdated]


async def test_ends_cleanly_while_it_waits_for_the_broker(database: Database) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    stop, daemon = asyncio.Event(), Daemon(settings_for(database.daemon))
    running = asyncio.create_task(daemon.run(stop))
    await until(lambda: daemon.health.passes("caches"))
    stop.set()
    await running
    gc.collect()
    assert complaints == []


async def test_a_cancelled_query_does_not_wait_for_a_frozen_server(database: Database) -> None:
    connection = await connect(DatabaseSettings.model_validate({"url": database.daemon}))
    sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(1)"))
    await until(lambda: query(database, "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1)'") == [(1,)])
    with frozen(connection.info.backend_pid):
        started = time.monotonic()
        sleeping.cancel()
        await asyncio.wait({sleeping})
        assert time.monotonic() - started < 1
    assert sleeping.cancelled()


def test_maintenance_is_bounded(database: Database) -> None:
    with maintenance_connection(database.owner) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("30s",)
        options = connection.info.get_parameters()
        assert (options["tcp_user_timeout"], options["keepalives_idle"]) == ("10000", "10")
    with (
        pytest.raises(DatabaseUnavailable, match="statement timeout"),
        maintenance_connection(database.owner, statement_timeout_s=0.05) as connection,
    ):
        connection.execute("SELECT pg_sleep(10)")
