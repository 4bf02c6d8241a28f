"""Hears of every change of configuration, by any writer, at its commit: LISTEN first, then everything is loaded.

A notification is a hint and may be lost, so every few seconds the versions are read, too; the same statement finds a
connection that is only half open. After each reconnect everything counts as changed.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from config.settings import DatabaseSettings
from storage.database import Connection, DatabaseUnavailable, connect, translated

log = structlog.get_logger(__name__)

CHANNEL = "factoryd_cache"
ASKED_FOR = ("replay", "operators", "ota")
"""No caches: rows that somebody has written for the daemon to act on."""
POLL_S = 5.0
POLL_TIMEOUT_S = 5.0
RECONNECT_MAX_S = 5.0


class ChangeListener:
    """One connection of its own: it waits all the time, and must not wait for a pool.

    Args:
        settings: the database.
        on_change: called with the name of a cache (a row of cache_versions, or of ASKED_FOR) that must be loaded again.
        on_checked: called when the versions were found to be those we know: nothing was missed up to now.
        poll_s: time between two looks at the versions.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        on_change: Callable[[str], None],
        on_checked: Callable[[], None],
        poll_s: float = POLL_S,
    ) -> None:
        self._settings = settings
        self._on_change = on_change
        self._on_checked = on_checked
        self._poll_s = poll_s
        self._versions: dict[str, int] = {}
        self.listening = asyncio.Event()
        """Set while connected: a change committed from now on is heard."""

    async def run(self) -> None:
        """Listens until cancelled; never raises for the database's fault."""
        attempt = 0
        while True:
            try:
                connection = await connect(self._settings, "factoryd listener")
                attempt = 0
                try:
                    await self._listen(connection)
                finally:
                    self.listening.clear()
                    await connection.close()
            except ConnectionError as error:
                attempt += 1
                if attempt == 1 or attempt % 20 == 0:
                    log.warning("listener_lost", error=str(error), attempt=attempt)
                await asyncio.sleep(random.uniform(0, min(RECONNECT_MAX_S, 0.1 * 2 ** min(attempt, 8))))  # noqa: S311

    async def _listen(self, connection: Connection) -> None:
        with translated("listening for changes"):
            await connection.execute(f"LISTEN {CHANNEL}")
            self._versions = await self._read_versions(connection)
            for name in [*self._versions, *ASKED_FOR]:
                self._on_change(name)
            self.listening.set()
            while True:
                async for notice in connection.notifies(timeout=self._poll_s):
                    self._hear(notice.payload)
                await self._poll(connection)

    def _hear(self, payload: str) -> None:
        name, _, version = payload.partition(":")
        if name in self._versions and version.isdecimal():
            self._versions[name] = max(self._versions[name], int(version))
        self._on_change(name)

    async def _poll(self, connection: Connection) -> None:
        versions = await self._read_versions(connection)
        missed = [name for name, version in versions.items() if version > self._versions.get(name, -1)]
        self._versions = versions
        for name in missed:
            log.warning("notification_missed", cache=name)
            self._on_change(name)
        if not missed:
            self._on_checked()

    async def _read_versions(self, connection: Connection) -> dict[str, int]:
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                return dict(await (await connection.execute("SELECT name, version FROM cache_versions")).fetchall())
        except TimeoutError as error:
            raise DatabaseUnavailable(f"the listener's connection did not answer within {POLL_TIMEOUT_S:g} s") from error
