"""The whole plant at a glance, for people who watch: two cheap queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage.database import Pool, translated

DEVICES = "SELECT status::text, count(*) FROM devices WHERE retired_at IS NULL GROUP BY status"

LAST_QUARANTINED = "SELECT received_at, device, reason, detail FROM quarantine ORDER BY received_at DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class LastQuarantined:
    """The message that was refused last. Device and detail may hold any text a device sent."""

    received_at: datetime
    device: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Devices in service by status (online, offline, error), and what was refused last."""

    devices: Mapping[str, int] = field(default_factory=dict)
    last_quarantined: LastQuarantined | None = None


async def load_overview(pool: Pool) -> Overview:
    """Returns the present overview; two queries, the second by index.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the overview"):
        async with pool.connection() as connection:
            devices = await (await connection.execute(DEVICES)).fetchall()
            last = await (await connection.execute(LAST_QUARANTINED)).fetchone()
    return Overview(dict(devices), LastQuarantined(*last) if last else None)
