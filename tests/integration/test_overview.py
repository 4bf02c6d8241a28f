"""The plant at a glance, from a real database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest
from pydantic import SecretStr

from config.settings import DatabaseSettings
from storage.database import DatabaseUnavailable, Pool, open_pool, probe_writable
from storage.overview import LastAlert, LastQuarantined, Overview, load_overview
from tests.integration.conftest import Database


@pytest.fixture(params=["daemon", "tools"])
async def pool(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Pool]:
    """As the daemon, and as a person's tools."""
    async with open_pool(DatabaseSettings(url=SecretStr(getattr(database, request.param)))) as pool:
        yield pool


async def test_of_an_empty_plant(pool: Pool) -> None:
    assert await load_overview(pool) == Overview({}, None)


async def test_counts_devices_in_service_and_shows_the_last_refusal(pool: Pool, database: Database) -> None:
    with psycopg.connect(database.admin) as connection:
        connection.execute(
            """INSERT INTO devices (device_id, name, type, location, status, retired_at) VALUES
            ('a', '', '', '', 'online', NULL), ('b', '', '', '', 'online', NULL), ('c', '', '', '', 'error', NULL),
            ('d', '', '', '', 'offline', now())"""
        )
        connection.execute(
            """INSERT INTO quarantine (received_at, topic, device, reason, detail, payload) VALUES
            ('2026-05-20 12:00Z', 't', 'a', 'bad_json', 'second', ''),
            ('2026-05-20 11:00Z', 't', NULL, 'bad_json', 'first', '')"""
        )
        connection.execute(
            """INSERT INTO alerts (device_id, severity, message, status, triggered_at, kind, origin)
            SELECT id, 'critical', 'm' || n, 'active', '2026-05-20 10:00Z', 'k' || n, (ARRAY['live', 'retrospective'])[n]
            FROM devices, generate_series(1, 2) AS n WHERE device_id = 'a'"""
        )
    overview = await load_overview(pool)
    assert overview.last_alert == LastAlert(datetime(2026, 5, 20, 10, tzinfo=UTC), "critical", "active", "m1")
    assert overview.devices == {"online": 2, "error": 1}
    assert overview.last_quarantined == LastQuarantined(datetime(2026, 5, 20, 12, tzinfo=UTC), "a", "bad_json", "second")


async def test_tells_a_read_only_database(pool: Pool, database: Database) -> None:
    await probe_writable(pool)
    with psycopg.connect(database.admin, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [database.name],
        )
    with pytest.raises(DatabaseUnavailable, match="the database is read-only"):
        await probe_writable(pool)
