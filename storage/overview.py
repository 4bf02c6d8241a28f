"""The whole plant at a glance, for people who watch: three cheap queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage.database import Pool, translated

DEVICES = "SELECT status::text, count(*) FROM devices WHERE retired_at IS NULL GROUP BY status"

LAST_QUARANTINED = "SELECT received_at, device, reason, detail FROM quarantine ORDER BY received_at DESC LIMIT 1"

LAST_ALERT = """
    SELECT triggered_at, severity::text, status::text, message FROM alerts WHERE origin = 'live' ORDER BY id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class LastQuarantined:
    """The message that was refused last. Device and detail may hold any text a device sent."""

    received_at: datetime
    device: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LastAlert:
    """The newest alert, open or not."""

    triggered_at: datetime
    severity: str
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class Overview:
    """Devices in service by status (online, offline, error), what was refused last, and the newest alert."""

    devices: Mapping[str, int] = field(default_factory=dict)
    last_quarantined: LastQuarantined | None = None
    last_alert: LastAlert | None = None


async def load_overview(pool: Pool) -> Overview:
    """Returns the present overview; three queries, two of them by index.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the overview"):
        async with pool.connection() as connection:
            devices = await (await connection.execute(DEVICES)).fetchall()
            last = await (await connection.execute(LAST_QUARANTINED)).fetchone()
            alert = await (await connection.execute(LAST_ALERT)).fetchone()
    return Overview(dict(devices), LastQuarantined(*last) if last else None, LastAlert(*alert) if alert else None)
