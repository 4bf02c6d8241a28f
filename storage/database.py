"""Connections to PostgreSQL, and the translation of their errors: `DatabaseUnavailable` means try again."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from config.settings import DatabaseSettings
from storage.sqlstate import Remedy, remedy

APPLICATION = "factoryd"
CLOSE_TIMEOUT_S = 0.3
"""A pool closes at once, unless it is just connecting to a frozen server."""


class Connection(AsyncConnection[TupleRow]):
    """A connection that is given up with its query.

    psycopg asks the server to cancel the query, and waits up to 10 s for a frozen one. No timeout and no shutdown of ours
    may take that long, and a new connection is cheap.
    """

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Hangs up: the server notices when the statement ends. psycopg calls this when a query's task is cancelled."""
        self.pgconn.finish()


class Pool(AsyncConnectionPool[Connection]):
    """A pool that loses no cancellation."""

    async def getconn(self, timeout: float | None = None) -> Connection:
        """As psycopg's; but `asyncio.wait_for`, on which it waits, swallows in Python 3.11 a cancellation that comes with the
        connection: the task would go on for ever, and with it the daemon that wants to end."""
        connection = await super().getconn(timeout)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await self.putconn(connection)
            raise asyncio.CancelledError
        return connection


class DatabaseUnavailable(ConnectionError):
    """PostgreSQL cannot be reached or cannot serve us now: try again."""


DEAD_PEER_OPTIONS: Mapping[str, int] = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""libpq options that notice a server whose host is gone."""


def connection_options(settings: DatabaseSettings, application: str = APPLICATION) -> dict[str, Any]:
    """Returns libpq options that notice a dead server: a frozen peer fails within 10 s instead of hanging."""
    return {
        "application_name": application,
        "connect_timeout": max(2, round(settings.connect_timeout_s)),
        **DEAD_PEER_OPTIONS,
        "options": f"-c statement_timeout={round(settings.statement_timeout_s * 1000)} -c lock_timeout=10000 -c timezone=UTC"
        # Our statements take arrays: a plan made for their values is no better, and planning would cost more than running.
        " -c plan_cache_mode=force_generic_plan"
        # Such a plan is made while the tables are small, and would go on to scan and hash them when they are not: what we join,
        # we look up by a key.
        " -c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off"
        " -c idle_in_transaction_session_timeout=60000",
    }


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns psycopg's "try again" errors into DatabaseUnavailable; all others pass."""
    try:
        yield
    except (psycopg.OperationalError, PoolTimeout, psycopg.InterfaceError) as error:
        if remedy(getattr(error, "sqlstate", None)) is not Remedy.RETRY:
            raise
        raise DatabaseUnavailable(f"{what}: {one_line(error)}") from error
    except psycopg.Error as error:
        if error.sqlstate is None or remedy(error.sqlstate) is not Remedy.RETRY:
            raise
        raise DatabaseUnavailable(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Returns an error's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


async def connect(settings: DatabaseSettings, application: str = APPLICATION) -> Connection:
    """Opens one autocommit connection.

    Raises:
        DatabaseUnavailable: no server, or it refused us.
    """
    assert settings.url is not None, "database.url is checked at start"
    with translated("connecting to the database"):
        return await Connection.connect(
            settings.url.get_secret_value(), autocommit=True, **connection_options(settings, application)
        )


@asynccontextmanager
async def open_pool(settings: DatabaseSettings) -> AsyncIterator[Pool]:
    """The pool for everything beside the writer: look-ups, presence, probes. It opens without waiting for a server."""
    assert settings.url is not None, "database.url is checked at start"
    pool = Pool(
        settings.url.get_secret_value(),
        connection_class=Connection,
        min_size=1,
        max_size=settings.pool_max_connections,
        timeout=settings.connect_timeout_s,
        max_waiting=64,
        reconnect_timeout=2.0,  # its pauses double up to this; the default lets minutes pass after an outage
        kwargs={"autocommit": True, **connection_options(settings)},
        check=AsyncConnectionPool.check_connection,
        name=APPLICATION,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=CLOSE_TIMEOUT_S)


async def probe_writable(pool: Pool) -> None:
    """Raises DatabaseUnavailable unless the database answers and takes writes."""
    with translated("asking whether the database can be written"):
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT current_setting('transaction_read_only')")
            row = await cursor.fetchone()
    if row is None or row[0] != "off":
        raise DatabaseUnavailable("the database is read-only: a standby, or an old primary after a failover")
