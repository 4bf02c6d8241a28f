"""Leadership: one active daemon per database, held by an advisory lock on the very connection that commits.

Whoever loses the connection loses the lock and, in the same moment, the means to commit: there is no window in which two
daemons write. A second process waits as standby.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from config.settings import DatabaseSettings
from storage.database import Connection, DatabaseUnavailable, connect, translated
from storage.waiting import Waiting

log = structlog.get_logger(__name__)

LOCK = int.from_bytes(b"factoryd")
"""Session-level advisory lock of the active daemon; per database, as all advisory locks are."""

STANDBY_POLL_S = 0.5
"""A standby takes over within this time after PostgreSQL has noticed the leader's end."""


class LeadershipLost(Exception):
    """The connection that holds the lock is gone: drop everything in memory, disconnect, and stand again."""


@asynccontextmanager
async def leadership(
    settings: DatabaseSettings, on_state: Callable[[str], None], waiting: Waiting | None = None
) -> AsyncIterator[Connection]:
    """Waits for the lock, as long as it takes, and yields the connection that holds it.

    `on_state` is told "database" (cannot be reached), "standby" (another daemon is active) or "active", when it changes.
    `waiting` goes on from one stand to the next.
    """
    connection = await _acquire(settings, on_state, waiting or Waiting())
    try:
        yield connection
    finally:
        await connection.close()


async def _acquire(settings: DatabaseSettings, on_state: Callable[[str], None], waiting: Waiting) -> Connection:
    state = ""
    while True:
        try:
            connection = await connect(settings, "factoryd writer")
            try:
                while not await _try_lock(connection):
                    state = _tell(on_state, state, "standby", meaning="another factoryd is active on this database")
                    await asyncio.sleep(STANDBY_POLL_S)
            except BaseException:
                await connection.close()
                raise
        except DatabaseUnavailable as error:
            state = _tell(on_state, state, "database")
            waiting.failed(error)
            await waiting.pause()
        else:
            _tell(on_state, state, "active")
            return connection


async def _try_lock(connection: Connection) -> bool:
    with translated("taking the leader's lock"):
        # A leader whose host vanished is noticed by the server, too: its end of the connection is probed.
        await connection.execute("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3")
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        row = await cursor.fetchone()
    return bool(row and row[0])


def _tell(on_state: Callable[[str], None], old: str, new: str, **details: str) -> str:
    if new != old:
        log.info("leadership_changed", state=new, **details)
        on_state(new)
    return new
