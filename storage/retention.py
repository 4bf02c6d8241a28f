"""What is kept for a time only, and removed in small transactions that nobody has to wait for; and what there is room for."""

from datetime import datetime

from storage.database import Pool, translated
from storage.partitions import PARTITION_NAMES_SQL

# Rows that somebody asked to be replayed stay until that has happened.
DELETE = """
    DELETE FROM quarantine WHERE id IN (
        SELECT id FROM quarantine WHERE received_at < %s AND replay_requested_at IS NULL ORDER BY received_at LIMIT %s)"""


async def delete_old_quarantine(pool: Pool, before: datetime, limit: int) -> int:
    """Deletes up to `limit` quarantined messages received before a moment, the oldest first, and returns how many.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("deleting old quarantined messages"):
        async with pool.connection() as connection:
            return (await connection.execute(DELETE, [before, limit])).rowcount


async def partition_names(pool: Pool) -> list[str]:
    """Returns the names of the partitions of sensor_readings.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the partitions"):
        async with pool.connection() as connection:
            return [name for (name,) in await (await connection.execute(PARTITION_NAMES_SQL)).fetchall()]
