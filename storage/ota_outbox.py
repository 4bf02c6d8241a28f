"""Commands on their way to devices: flags on ota_deployments, set with the change that asks for them, cleared after PUBACK."""

from collections.abc import Sequence

from ota.commands import Pending
from ota.firmware import Key, Version
from storage.database import Pool, translated

# Who is to stop comes before who is to begin: they may be the same device.
PENDING = """
    SELECT d.id, v.device_id, d.publish_pending, d.attempt, d.sends, d.version_id,
        coalesce(d.cancel_reason, d.error_message, '')
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id
    WHERE d.publish_pending IS NOT NULL AND (d.publish_pending = 'cancel' OR d.version_id = ANY(%s))
    ORDER BY d.publish_pending, d.id LIMIT %s"""

# A command that was asked for meanwhile stays.
SENT = """
    UPDATE ota_deployments d SET publish_pending = NULL FROM unnest(%s::int8[], %s::int4[]) AS n (id, sends)
    WHERE d.id = n.id AND d.sends = n.sends"""

VERSIONS = """
    SELECT id, version, firmware_url, hardware, min_version, size_bytes, sha256, downgrade, manifest, manifest_seq, signatures,
        expires_at
    FROM ota_versions WHERE status <> 'draft' AND recalled_at IS NULL"""

KEYS = "SELECT keyid, public_key, status FROM ota_keys"


class CommandOutbox:
    """Through the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def pending(self, version_ids: Sequence[int], limit: int) -> Sequence[Pending]:
        """Returns commands that the broker has not acknowledged: cancels first, and updates to these versions.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading commands for devices"):
            async with self._pool.connection() as connection:
                return [
                    Pending(*row) for row in await (await connection.execute(PENDING, [list(version_ids), limit])).fetchall()
                ]

    async def sent(self, commands: Sequence[Pending]) -> None:
        """Clears the flags of these, unless another command was asked for meanwhile."""
        with translated("marking commands as sent"):
            async with self._pool.connection() as connection:
                await connection.execute(SENT, [[each.id for each in commands], [each.sends for each in commands]])

    async def versions(self) -> tuple[list[Version], list[Key]]:
        """Returns released versions, and all keys."""
        with translated("reading firmware versions"):
            async with self._pool.connection() as connection:
                versions = [Version(*row) for row in await (await connection.execute(VERSIONS)).fetchall()]
                keys = [Key(*row) for row in await (await connection.execute(KEYS)).fetchall()]
        return versions, keys
