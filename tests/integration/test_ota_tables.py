"""Reports in their rows: what is remembered, what is written of it, and what somebody else has written meanwhile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from config.settings import DatabaseSettings
from ota.deployment import Deployment, Phase, Timeouts
from ota.reduction import Loaded, Message, reduce
from ota.reports import Ending, Report
from storage.database import Pool, open_pool
from storage.ota_rows import load_deployments
from storage.ota_tables import OtaTables
from tests.integration.command_line import rows
from tests.integration.conftest import Database

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MADE = """
    WITH v AS (INSERT INTO ota_versions (version, firmware_url, status)
            VALUES ('2.4.1', 'https://files.example/a', 'released') RETURNING id),
        d AS (INSERT INTO devices (device_id, name, type, location) SELECT 'press-' || n, 'P', 'press', 'hall'
            FROM generate_series(1, 3) AS n RETURNING id)
    INSERT INTO ota_deployments (device_id, version_id, status, phase, holds_device, dispatched_at, phase_since)
    SELECT d.id, v.id, 'pending', 'sent', true, %s, %s FROM d, v RETURNING id, device_id"""


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with open_pool(DatabaseSettings(url=SecretStr(database.daemon))) as opened:
        yield opened


class Devices:
    """Three devices that report, one round after the other."""

    def __init__(self, pool: Pool, made: list[tuple[int, int]]) -> None:
        self._pool = pool
        self._tables = OtaTables(pool)
        self._made = made
        self._rounds = 0
        self.last: dict[int, Deployment] = {}

    async def report(self, said: Phase | Ending, **fields: object) -> None:
        self._rounds += 1
        at = NOW + timedelta(seconds=self._rounds)
        messages = [
            Message(device, f"press-{place}", Report(deployment_id=number, said=said, seq=self._rounds, **fields), at)  # type: ignore[arg-type]
            for place, (number, device) in enumerate(self._made, 1)
        ]

        def decide(loaded: Loaded) -> object:
            return reduce(messages, loaded, Timeouts())

        draft = await self._tables.track([number for number, _ in self._made], [], decide)  # type: ignore[arg-type]
        self.last |= draft.changed

    async def rows(self) -> dict[int, Deployment]:
        async with self._pool.connection() as connection:
            return await load_deployments(connection, "ORDER BY d.id", [])


@pytest.fixture
def devices(pool: Pool, database: Database) -> Devices:
    return Devices(pool, [(int(str(number)), int(str(device))) for number, device in rows(database.admin, MADE, NOW, NOW)])


async def test_a_row_is_what_was_decided(devices: Devices) -> None:
    await devices.report(Phase.ACKNOWLEDGED)
    assert await devices.rows() == devices.last
    for percent in (5, 20, 21, 60):
        await devices.report(Phase.DOWNLOADING, progress_percent=percent, bytes_done=percent * 1000)
        assert await devices.rows() == devices.last
    await devices.report(Phase.INSTALLING, progress_percent=90, version="2.4.0")
    assert await devices.rows() == devices.last
    await devices.report(Ending.FAILED, error_code="flash_write")
    assert await devices.rows() == devices.last


@pytest.mark.parametrize("rounds", [1, 2])
async def test_what_somebody_else_writes_meanwhile_stays(devices: Devices, database: Database, rounds: int) -> None:
    """It is seen by the row's transaction: the report is then decided upon what is there."""
    for percent in range(rounds):
        await devices.report(Phase.DOWNLOADING, progress_percent=percent)
    rows(database.admin, "UPDATE ota_deployments SET cancel_requested_at = %s, cancel_reason = 'wrong line'", NOW)
    await devices.report(Phase.DOWNLOADING, progress_percent=50)
    now = await devices.rows()
    assert {(each.cancel_reason, each.progress_percent) for each in now.values()} == {("wrong line", 50)}
    assert now == devices.last
