"""Work that is not in a hurry, beside work that is: no more rows a second than are allowed, in small portions."""

import time
from collections.abc import Callable

import psycopg

from storage.leader import LOCK

_LED = """
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.objsubid = 1 AND l.granted
        AND (l.classid::bigint << 32) | l.objid::bigint = %s)"""


CATCH_UP_S = 0.5
"""So much of a delay is made up for, without waiting; more would be a burst."""


class Pace:
    """Waits after each portion.

    Args:
        rows_per_s: most rows a second; None: no limit.
        clock: in seconds.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        rows_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rows_per_s, self._clock, self._sleep = rows_per_s, clock, sleep
        self._free_at = clock()

    def keep(self, rows: int) -> None:
        """Told of a portion that was done; returns when the next may begin."""
        if self.rows_per_s is None:
            return
        now = self._clock()
        self._free_at = max(self._free_at + rows / self.rows_per_s, now - CATCH_UP_S)
        if self._free_at > now:
            self._sleep(self._free_at - now)


def is_led(connection: psycopg.Connection) -> bool:
    """Tells whether a daemon is active on this database."""
    row = connection.execute(_LED, [LOCK]).fetchone()
    return bool(row and row[0])
