"""Presence columns of devices: read once before CONNECT, then written in coalesced batches."""

from collections.abc import Sequence

from ingest.births import Status
from ingest.liveness import PresenceRow
from storage.database import Pool, translated

SELECT = "SELECT id, status::text, status_reason, status_session, reported_version, last_seen FROM devices"

# Locked in one order first: the writer of readings may be flagging the same devices.
UPDATE = """
    WITH locked AS (SELECT id FROM devices WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE)
    UPDATE devices SET status = t.status::device_status, status_reason = t.reason, status_session = t.session,
        reported_version = t.version, last_seen = t.last_seen
    FROM locked JOIN unnest(%s::int8[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[])
        AS t (id, status, reason, session, version, last_seen) USING (id)
    WHERE devices.id = locked.id"""


class PresenceTable:
    """The store that `ingest.presence` asks for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self) -> list[PresenceRow]:
        """Returns every device.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading the devices' presence"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(SELECT)).fetchall()
        return [PresenceRow(row[0], Status(row[1]), *row[2:]) for row in rows]

    async def save(self, rows: Sequence[PresenceRow]) -> None:
        """Stores these rows in one statement, which is one short transaction.

        Raises:
            DatabaseUnavailable: try again.
        """
        columns = [list(column) for column in zip(*sorted(rows, key=lambda row: row.id), strict=True)]
        with translated("writing the devices' presence"):
            async with self._pool.connection() as connection:
                await connection.execute(UPDATE, [columns[0], *columns])
