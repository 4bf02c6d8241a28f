"""The quality of the alarms, for metrics: the views alarm_chattering, alarm_stale and alarm_response in three numbers."""

from typing import NamedTuple

from storage.database import Pool, translated

QUALITY = """
    SELECT (SELECT count(*) FROM alarm_chattering), (SELECT count(*) FROM alarm_stale),
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM acknowledged_at - triggered_at)) FROM alerts
            WHERE acknowledged_at > now() - interval '1 day' AND origin = 'live')"""


class AlarmQuality(NamedTuple):
    """Thresholds that chatter, alerts open for more than a day, and the median seconds to acknowledge (0: none was)."""

    chattering: int
    stale: int
    acknowledge_seconds: float


async def load_alarm_quality(pool: Pool) -> AlarmQuality:
    """Returns the present figures.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the quality of alarms"):
        async with pool.connection() as connection:
            row = await (await connection.execute(QUALITY)).fetchone()
    assert row is not None, "one row"
    return AlarmQuality(row[0], row[1], float(row[2] or 0.0))
