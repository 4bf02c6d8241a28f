"""Presence columns of devices: read once before CONNECT, then written in coalesced batches."""

from collections.abc import Sequence

import msgspec

from ingest.births import Status
from ingest.liveness import PresenceRow
from storage.database import Pool, translated

SELECT = "SELECT id, status::text, status_reason, status_session, reported_version, last_seen FROM devices"

# Locked in one order first: the writer of readings may be flagging the same devices. JSON: as in storage.upsert.
UPDATE = """
    WITH locked AS (
        SELECT given.* FROM json_to_recordset(%s)
            AS given (id int8, status device_status, reason text, session text, version text, last_seen timestamptz)
        JOIN devices d USING (id) ORDER BY d.id FOR NO KEY UPDATE OF d)
    UPDATE devices SET status = t.status, status_reason = t.reason, status_session = t.session,
        reported_version = t.version, last_seen = t.last_seen
    FROM locked AS t WHERE devices.id = t.id"""


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
        given = msgspec.json.encode([row._asdict() for row in rows]).decode()
        with translated("writing the devices' presence"):
            async with self._pool.connection() as connection:
                await connection.execute(UPDATE, [given])
