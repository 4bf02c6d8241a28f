"""How many deployments stand where: what the metrics show, by counting rows."""

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Pool, translated

LIVE = """
    SELECT status::text, phase, count(*) FROM ota_deployments WHERE status IN ('pending', 'in_progress') GROUP BY 1, 2"""
WAITING = """
    SELECT (SELECT count(*) FROM ota_deployments WHERE publish_pending IS NOT NULL),
        (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM ota_deployments
            WHERE status = 'pending' AND phase = 'queued'),
        (SELECT count(*) FROM ota_deployments WHERE status IN ('pending', 'in_progress') AND phase <> 'backoff'
            AND next_action_at < now() - interval '5 minutes')"""
INSTALLED = """
    SELECT coalesce(s.hardware, ''), s.version, count(*) FROM ota_device_state s JOIN devices v ON v.id = s.device_id
    WHERE s.version IS NOT NULL AND v.retired_at IS NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 200"""
# Only the last deployment of a device says what it should run.
DRIFT = """
    SELECT f.version, count(*) FROM ota_device_state s JOIN devices v ON v.id = s.device_id
        CROSS JOIN LATERAL (SELECT d.version_id, d.status FROM ota_deployments d WHERE d.device_id = s.device_id
            ORDER BY d.id DESC LIMIT 1) AS last
        JOIN ota_versions f ON f.id = last.version_id
    WHERE last.status = 'completed' AND s.version <> f.version AND v.retired_at IS NULL GROUP BY 1"""


class Figures(NamedTuple):
    """Numbers of rows; `oldest_s`: age of the oldest deployment that waits; `overdue`: past a deadline for five minutes."""

    live: Sequence[tuple[str, str, int]]
    outbox: int
    oldest_s: float
    overdue: int
    installed: Sequence[tuple[str, str, int]]
    drift: Sequence[tuple[str, int]]


async def load_figures(pool: Pool) -> Figures:
    """Counts.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("counting deployments"):
        async with pool.connection() as connection:
            live = [(status, phase, count) for status, phase, count in await (await connection.execute(LIVE)).fetchall()]
            outbox, oldest_s, overdue = (await (await connection.execute(WAITING)).fetchall())[0]
            installed = [(row[0], row[1], row[2]) for row in await (await connection.execute(INSTALLED)).fetchall()]
            drift = [(version, count) for version, count in await (await connection.execute(DRIFT)).fetchall()]
    return Figures(live, outbox, oldest_s, overdue, installed, drift)
