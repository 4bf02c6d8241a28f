"""Whether WAL reaches its archive: what PostgreSQL itself says (pg_stat_archiver), which every role may read."""

from dataclasses import dataclass
from datetime import datetime

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.database import Pool, translated

# Written since the end of the last archived segment; its name is timeline, high and low half of its number, each 8 hex digits
# (a backup's label begins with that of its first segment).
ARCHIVER = r"""
    SELECT current_setting('archive_mode') <> 'off', last_archived_time, last_archived_wal, last_failed_time,
        last_failed_time IS NOT NULL AND last_failed_time > coalesce(last_archived_time, '-infinity'),
        extract(epoch FROM clock_timestamp() - coalesce(last_archived_time, stats_reset))::float8,
        CASE WHEN last_archived_wal ~ '^[0-9A-F]{24}' AND NOT pg_is_in_recovery() THEN greatest(0, pg_wal_lsn_diff(
            pg_current_wal_lsn(),
            '0/0'::pg_lsn + ('x' || substr(last_archived_wal, 9, 8))::bit(32)::bigint * 4294967296::numeric
                + (('x' || substr(last_archived_wal, 17, 8))::bit(32)::bigint + 1)
                    * pg_size_bytes(current_setting('wal_segment_size'))))::bigint END
    FROM pg_stat_archiver"""


@dataclass(frozen=True, slots=True)
class WalArchiving:
    """How the archiving of WAL stands."""

    is_on: bool
    last_archived_at: datetime | None
    last_archived_wal: str | None
    last_failed_at: datetime | None
    is_failing: bool
    """The last attempt failed; PostgreSQL tries for ever, and keeps all WAL meanwhile."""
    age_s: float
    """Since a segment was archived, or since the counting began."""
    waiting_bytes: int | None
    """Written since the last archived segment; None: nothing was archived, or a standby answers."""


def wal_archiving(settings: DatabaseSettings) -> WalArchiving:
    """Asks with database.url.

    Raises:
        As `command_connection`.
    """
    with command_connection(settings) as connection:
        row = connection.execute(ARCHIVER).fetchone()
    assert row is not None, "the view has one row"
    return WalArchiving(*row)


async def load_wal_archiving(pool: Pool) -> WalArchiving:
    """As `wal_archiving`, for the daemon.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("asking how WAL is archived"):
        async with pool.connection() as connection:
            row = await (await connection.execute(ARCHIVER)).fetchone()
    assert row is not None, "the view has one row"
    return WalArchiving(*row)
