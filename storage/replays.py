"""The quarantine's rows whose replay was asked for. Their batch's transaction removes them (`storage.side_rows`)."""

from ingest.replays import QuarantinedMessage
from storage.database import Pool, translated

PENDING = """
    SELECT id, topic, payload, content_type, qos, received_at FROM quarantine
    WHERE replay_requested_at IS NOT NULL AND id > %s ORDER BY id LIMIT %s"""


class ReplayTable:
    """The store that `ingest.replays` asks for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def pending(self, after: int, limit: int) -> list[QuarantinedMessage]:
        """Returns rows with an id above `after` whose replay was asked for, in the order of their ids.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading the quarantine"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(PENDING, [after, limit])).fetchall()
        return [QuarantinedMessage(*row) for row in rows]
