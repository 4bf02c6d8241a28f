"""daemon_state: the few values that must survive the process."""

from storage.database import Connection, Pool, translated

SESSION_SEEN = "mqtt_session_seen_"


async def load_state(connection: Connection) -> dict[str, str]:
    """Returns all values by key, the two secret MQTT client ids among them."""
    with translated("reading the daemon's state"):
        return dict(await (await connection.execute("SELECT key, value FROM daemon_state")).fetchall())


async def save_state(pool: Pool, key: str, value: str) -> None:
    """Writes one value."""
    with translated("writing the daemon's state"):
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO daemon_state (key, value) VALUES (%s, %s)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()",
                [key, value],
            )


async def may_skip_key_check(connection: Connection) -> bool:
    """Tells whether our role was granted SET on session_replication_role: then the foreign key costs next to nothing."""
    with translated("reading our privileges"):
        cursor = await connection.execute("SELECT has_parameter_privilege('session_replication_role', 'SET')")
        row = await cursor.fetchone()
    return bool(row and row[0])
