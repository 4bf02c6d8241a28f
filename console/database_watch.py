"""Asks every few seconds whether the database can be written, so that /readyz can answer at once."""

import asyncio
from collections.abc import Awaitable, Callable

from console.health import Health

INTERVAL_S = 2.0
TIMEOUT_S = 3.0
"""Together: the answer that /readyz gives is at most 5 s old."""


async def watch_database(health: Health, ask: Callable[[], Awaitable[None]], interval_s: float = INTERVAL_S) -> None:
    """Keeps the check `database` up to date until cancelled; `ask` raises ConnectionError if it cannot be written."""
    while True:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await ask()
        except TimeoutError:
            health.failed("database", f"no answer within {TIMEOUT_S:g} s")
        except ConnectionError as error:
            health.failed("database", str(error))
        else:
            health.passed("database", "writable")
        await asyncio.sleep(interval_s)
