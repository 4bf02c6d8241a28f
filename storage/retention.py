"""What is kept for a time only, and removed in small transactions that nobody has to wait for; and what there is room for."""

from datetime import datetime

from storage.database import Pool, translated
from storage.partitions import PARTITION_NAMES_SQL
from storage.rollup_sql import HOUR, MINUTE

# Rows that somebody asked to be replayed stay until that has happened.
DELETE = """
    DELETE FROM quarantine WHERE id IN (
        SELECT id FROM quarantine WHERE received_at < %s AND replay_requested_at IS NULL ORDER BY received_at LIMIT %s)"""

DELETE_GAPS = """
    DELETE FROM sequence_gaps WHERE id IN (
        SELECT id FROM sequence_gaps WHERE noticed_at < %s ORDER BY noticed_at LIMIT %s)"""

MAX_BOOTS = 256
DELETE_SEQUENCES = """
    DELETE FROM device_sequences s USING (
        SELECT device_id, boot_id, row_number() OVER (PARTITION BY device_id ORDER BY updated_at DESC) AS rank
        FROM device_sequences) r
    WHERE s.device_id = r.device_id AND s.boot_id = r.boot_id AND (r.rank > %s OR s.updated_at < %s)"""


async def delete_old_quarantine(pool: Pool, before: datetime, limit: int) -> int:
    """Deletes up to `limit` quarantined messages received before a moment, the oldest first, and returns how many.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("deleting old quarantined messages"):
        async with pool.connection() as connection:
            return (await connection.execute(DELETE, [before, limit])).rowcount


async def delete_old_sequences(pool: Pool, before: datetime) -> int:
    """Deletes sequences of boots not heard of since a moment, and all but the last MAX_BOOTS of a device; returns how many.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("deleting old sequences"):
        async with pool.connection() as connection:
            return (await connection.execute(DELETE_SEQUENCES, [MAX_BOOTS, before])).rowcount


async def delete_old_rollups(pool: Pool, before: datetime, limit: int) -> int:
    """Deletes up to `limit` buckets of each kind that began before a moment, and returns how many.

    Raises:
        DatabaseUnavailable: try again.
    """
    deleted = 0
    with translated("deleting old roll-ups"):
        async with pool.connection() as connection:
            for table in (MINUTE, HOUR):
                query = f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE bucket < %s LIMIT %s))"  # noqa: S608
                deleted += (await connection.execute(query.encode(), [before, limit])).rowcount
    return deleted


async def delete_old_gaps(pool: Pool, before: datetime, limit: int) -> int:
    """Deletes up to `limit` rows of the ledger of gaps noticed before a moment, open or not, and returns how many.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("deleting old gaps"):
        async with pool.connection() as connection:
            return (await connection.execute(DELETE_GAPS, [before, limit])).rowcount


async def partition_names(pool: Pool) -> list[str]:
    """Returns the names of the partitions of sensor_readings.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the partitions"):
        async with pool.connection() as connection:
            return [name for (name,) in await (await connection.execute(PARTITION_NAMES_SQL)).fetchall()]
