"""PURE. What is past its time, and when it is looked for."""

from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple

LATENESS = timedelta(hours=1)
"""A reading is refused as too old when it is received; it may be stored a little later."""


class Due(NamedTuple):
    """Rows that end, and leave some time after."""

    table: str
    time: str
    """The column that says when a row came to its end."""
    done: str
    """Which rows (p) have, in SQL."""


# What was not told yet stays until it is; a live rollout counts its deployments.
ALERTS_DUE = Due(
    "alerts",
    "resolved_at",
    "p.status = 'resolved' AND NOT EXISTS (SELECT FROM alert_outbox o WHERE o.alert_id = p.id AND o.published_at IS NULL)",
)
DEPLOYMENTS_DUE = Due(
    "ota_deployments",
    "completed_at",
    "p.completed_at IS NOT NULL AND p.status IN ('completed', 'failed') AND NOT EXISTS (SELECT FROM ota_rollouts o"
    " WHERE o.id = p.rollout_id AND o.status NOT IN ('aborted', 'completed'))",
)


def readings_before(now: datetime, readings_days: int) -> datetime:
    """Returns the moment before which a day of readings must end to be past its time."""
    return now - timedelta(days=readings_days) - LATENESS


def next_run(now: datetime, run_at: str) -> datetime | None:
    """Returns the next moment at which maintenance is due; None: never."""
    if run_at == "never":
        return None
    hour, minute = map(int, run_at.split(":"))
    at = datetime.combine(now.date(), time(hour, minute, tzinfo=UTC))
    return at if at > now else at + timedelta(days=1)
