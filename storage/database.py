"""Connections to PostgreSQL, and the translation of their errors: `DatabaseUnavailable` means try again."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from config.settings import DatabaseSettings
from storage.sqlstate import Remedy, remedy

APPLICATION = "factoryd"

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]


class DatabaseUnavailable(ConnectionError):
    """PostgreSQL cannot be reached or cannot serve us now: try again."""


def connection_options(settings: DatabaseSettings, application: str = APPLICATION) -> dict[str, Any]:
    """Returns libpq options that notice a dead server: a frozen peer fails within 10 s instead of hanging."""
    return {
        "application_name": application,
        "connect_timeout": max(2, round(settings.connect_timeout_s)),
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": f"-c statement_timeout={round(settings.statement_timeout_s * 1000)} -c lock_timeout=10000 -c timezone=UTC"
        # Our statements take arrays: a plan made for their values is no better, and planning would cost more than running.
        " -c plan_cache_mode=force_generic_plan"
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
        return await AsyncConnection.connect(
            settings.url.get_secret_value(), autocommit=True, **connection_options(settings, application)
        )


@asynccontextmanager
async def open_pool(settings: DatabaseSettings) -> AsyncIterator[Pool]:
    """The pool for everything beside the writer: look-ups, presence, probes. It opens without waiting for a server."""
    assert settings.url is not None, "database.url is checked at start"
    pool: Pool = AsyncConnectionPool(
        settings.url.get_secret_value(),
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
        await pool.close(timeout=5)


async def probe_writable(pool: Pool) -> None:
    """Raises DatabaseUnavailable unless the database answers and takes writes."""
    with translated("asking whether the database can be written"):
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT current_setting('transaction_read_only')")
            row = await cursor.fetchone()
    if row is None or row[0] != "off":
        raise DatabaseUnavailable("the database is read-only: a standby, or an old primary after a failover")
