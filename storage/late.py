"""late_windows, and the past they are about."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from alerting.alert import Alert
from alerting.late import Window
from ingest.reading import METRICS, Reading
from storage.alert_book import ALERTS, alert_of
from storage.database import Pool, translated

WINDOWS = """
    SELECT device_id, from_at, to_at, noted_at FROM late_windows
    WHERE noted_at <= now() - %s::interval OR noted_in < date_trunc('minute', now())
    ORDER BY noted_at LIMIT 100"""

READINGS = f"""
    SELECT device_id, {", ".join(METRICS)}, recorded_at, received_at, extra FROM sensor_readings
    WHERE device_id = %s AND recorded_at > %s AND recorded_at <= %s ORDER BY recorded_at LIMIT %s"""  # noqa: S608 - our constants

OVERLAPPING = f"""{ALERTS}
    WHERE a.device_id = %s AND a.kind = 'threshold' AND a.topic IS NOT NULL AND a.triggered_at <= %s
        AND (a.resolved_at IS NULL OR a.resolved_at >= %s)"""


class PastTables:
    """Reads through the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def windows(self, quiet_s: float) -> Sequence[Window]:
        """Returns windows that have not grown for so long, or cannot grow any more, the oldest first.

        Raises:
            DatabaseUnavailable: try again.
        """
        with translated("reading late windows"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(WINDOWS, [timedelta(seconds=quiet_s)])).fetchall()
        return [Window(*row) for row in rows]

    async def readings(self, device_id: int, after: datetime, until: datetime, limit: int) -> Sequence[Reading]:
        """Returns a device's first readings after a moment, by recorded_at."""
        with translated("reading a device's past"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(READINGS, [device_id, after, until, limit])).fetchall()
        return [Reading(*row) for row in rows]

    async def alerts(self, device_id: int, from_at: datetime, until: datetime) -> Sequence[Alert]:
        """Returns a device's alerts that overlap that time."""
        with translated("reading a device's past alerts"):
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(OVERLAPPING, [device_id, until, from_at])).fetchall()
        return [alert_of(row) for row in rows]
