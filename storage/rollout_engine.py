"""Rollouts for the dispatcher: the row is locked, its deployments are counted, `ota` decides, and that is committed."""

from collections.abc import Callable, Sequence
from datetime import datetime

from ota.rollout import Rollout, Sending
from ota.rollouts import Stepped
from storage.database import Connection, Pool, translated
from storage.rollout_rows import COUNTS, ROLLOUT, STAGES, changes, counted, rollout_of

OPEN = "SELECT id FROM ota_rollouts WHERE status NOT IN ('aborted', 'completed') ORDER BY id"
SENDING = """
    SELECT r.id, r."window", r.max_in_progress, r.max_per_minute, n.in_progress, n.sent
    FROM ota_rollouts r CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE d.holds_device AND d.phase NOT IN ('backoff', 'deferred')) AS in_progress,
            count(*) FILTER (WHERE d.dispatched_at > %s - interval '1 minute') AS sent
        FROM ota_deployments d WHERE d.rollout_id = r.id) n
    WHERE r.status IN ('running', 'soaking') ORDER BY r.id"""


class RolloutTables:
    """Through the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def live(self) -> Sequence[int]:
        """Returns the numbers of the rollouts that are not over.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("looking for rollouts"):
            async with self._pool.connection() as connection:
                return [row[0] for row in await (await connection.execute(OPEN)).fetchall()]

    async def step(self, number: int, now: datetime, decide: Callable[[Rollout], Rollout]) -> Stepped | None:
        """Decides on a rollout in one transaction; None: somebody else is at it.

        Raises:
            DatabaseUnavailable: nothing was changed; try again.
        """
        with translated("stepping a rollout"):
            async with self._pool.connection() as connection, connection.transaction():
                before = await _load(connection, number, now)
                if before is None:
                    return None
                after = decide(before)
                for statement, values in changes(before, after, now):
                    await connection.execute(statement.encode(), values)
        return Stepped(before, after)

    async def sending(self, now: datetime) -> Sequence[Sending]:
        """Returns the rollouts that are under way, and how much of their limits is used.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("looking at the limits of rollouts"):
            async with self._pool.connection() as connection:
                return [Sending(*row) for row in await (await connection.execute(SENDING, [now])).fetchall()]


async def _load(connection: Connection, number: int, now: datetime) -> Rollout | None:
    values = {"rollout": number, "now": now}
    row = await (await connection.execute(f"{ROLLOUT} SKIP LOCKED".encode(), values)).fetchone()
    if row is None:
        return None
    rollout = rollout_of(row, await (await connection.execute(STAGES, values)).fetchall())
    if (stage := rollout.current) is None:
        return rollout
    counts = await (await connection.execute(COUNTS, values | {"stage": stage.stage_no})).fetchone()
    assert counts is not None, "an aggregate"
    return counted(rollout, counts)
