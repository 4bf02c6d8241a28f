"""How to wait for a database: jittered, growing pauses, and a word in the log at first and then once a minute."""

import asyncio
import random

import structlog

log = structlog.get_logger(__name__)

LONGEST_PAUSE_S = 1.0
"""Short: it adds to every recovery; a try a second is nothing to a server."""
SHORTEST_PAUSE_S = 0.05
QUIET_S = 10.0
"""After so long without a failure the next one is the first of a new series."""
REPEAT_S = 60.0
"""Between two lines in the log about the same wait."""


class Waiting:
    """One wait after another, as long as the process lives: a server that fails us soon after each success is not hammered."""

    def __init__(self) -> None:
        self._failures = 0
        self._failed_at_s = self._told_at_s = float("-inf")

    def failed(self, reason: object, *, told: bool = False) -> None:
        """Counts a failed try; logged unless it was said a moment ago, or the caller has `told` it."""
        at_s = asyncio.get_running_loop().time()
        first = at_s - self._failed_at_s > QUIET_S
        self._failures, self._failed_at_s = 1 if first else self._failures + 1, at_s
        if told or not (first or at_s - self._told_at_s >= REPEAT_S):
            return
        self._told_at_s = at_s
        log.warning("database_awaited", error=str(reason), attempt=self._failures)

    async def pause(self) -> None:
        """Waits before the next try; not at all if the last failure is long ago."""
        if asyncio.get_running_loop().time() - self._failed_at_s <= QUIET_S:
            bound = min(LONGEST_PAUSE_S, 0.1 * 2 ** min(self._failures - 1, 6))
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE_S, bound))  # noqa: S311 - not a secret
