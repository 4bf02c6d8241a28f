"""alert_outbox: what the broker has not yet acknowledged; and which retained states should stand there."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from alerting.outgoing import Outgoing
from storage.database import Pool, translated

WAITING = """
    SELECT alert_id, version, topic, payload, retain, event_topic FROM alert_outbox WHERE published_at IS NULL
    ORDER BY created_at, alert_id, version"""

MARK = """
    UPDATE alert_outbox o SET published_at = now()
    FROM unnest(%s::int8[], %s::int8[]) AS n (alert_id, version)
    WHERE o.alert_id = n.alert_id AND o.version = n.version"""

# The newest version of each alert that is open, or was resolved a short time ago: what a subscriber should find.
STANDING = """
    SELECT a.topic, a.id, a.version, a.status = 'resolved' FROM alerts a
    WHERE a.origin = 'live' AND a.topic IS NOT NULL AND (a.status <> 'resolved' OR a.resolved_at > %s)
    ORDER BY a.topic, a.id"""

DELETE = """
    DELETE FROM alert_outbox WHERE (alert_id, version) IN (
        SELECT alert_id, version FROM alert_outbox WHERE published_at < %s LIMIT %s)"""


class Standing(NamedTuple):
    """A state that should be retained at the broker; `topic` is below {root}/alerts/."""

    topic: str
    alert_id: int
    version: int
    resolved: bool


class OutboxTable:
    """Through the pool: marking must not wait for a batch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def waiting(self) -> Sequence[Outgoing]:
        """Returns what is not yet published, in order.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading the outbox of alerts"):
            async with self._pool.connection() as connection:
                return [Outgoing(*row) for row in await (await connection.execute(WAITING)).fetchall()]

    async def mark(self, keys: Sequence[tuple[int, int]]) -> None:
        """Marks (alert, version) pairs as published."""
        with translated("marking published alerts"):
            async with self._pool.connection() as connection:
                await connection.execute(MARK, [list(column) for column in zip(*keys, strict=True)])

    async def standing(self, resolved_after: datetime) -> dict[str, Standing]:
        """Returns by topic what should be retained: open alerts, and those resolved after that moment, the newest of each."""
        with translated("reading the states of alerts"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(STANDING, [resolved_after])).fetchall()
        found: dict[str, Standing] = {}
        for row in rows:
            standing = Standing(*row)
            there = found.get(standing.topic)
            if there is None or there.resolved or not standing.resolved:
                found[standing.topic] = standing
        return found

    async def payloads(self, alert_ids: Sequence[int]) -> dict[int, bytes]:
        """Returns the newest payload of each of these alerts that the outbox still holds."""
        statement = (
            "SELECT DISTINCT ON (alert_id) alert_id, payload FROM alert_outbox WHERE alert_id = ANY(%s) AND retain"
            " ORDER BY alert_id, version DESC"
        )
        with translated("reading the outbox of alerts"):
            async with self._pool.connection() as connection:
                return dict(await (await connection.execute(statement, [list(alert_ids)])).fetchall())

    async def delete_old(self, now: datetime, chunk: int) -> int:
        """Deletes versions that were published more than a day ago; returns how many."""
        with translated("deleting published alerts"):
            async with self._pool.connection() as connection:
                return (await connection.execute(DELETE, [now - timedelta(days=1), chunk])).rowcount
