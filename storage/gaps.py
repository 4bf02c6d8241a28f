"""The ledger of gaps as people read it."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.device_views import not_registered


@dataclass(frozen=True, slots=True)
class GapView:
    """Messages of one start of a device that did not come. Times are aware UTC, by our clock."""

    id: int
    device: str
    boot_id: str
    """Empty for devices that send none."""
    first_seq: int
    last_seq: int
    missing: int
    """Messages that have still not come."""
    numbers: str
    """Which ones, like 4-7,9."""
    noticed_at: datetime
    closed_at: datetime | None
    """Late messages have filled it."""
    lost_at: datetime | None
    """The device began to count anew: it can no longer be filled."""


@dataclass(frozen=True, slots=True)
class GapTotals:
    """All that a list would show without a limit."""

    gaps: int
    devices: int
    missing: int
    lost: int
    """How many of the missing ones can no longer come."""


@dataclass(frozen=True, slots=True)
class GapSelection:
    """Which gaps; None does not narrow."""

    device: str | None = None
    since: datetime | None = None
    """Noticed since."""
    closed: bool = False
    """Closed ones, too."""


COUNTED = "(SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(g.missing) AS r)"

SELECTED = """
    FROM sequence_gaps g JOIN devices d ON d.id = g.device_id
    WHERE (%(closed)s OR g.closed_at IS NULL) AND (%(device)s::text IS NULL OR d.device_id = %(device)s)
        AND (%(since)s::timestamptz IS NULL OR g.noticed_at >= %(since)s)"""

PAGE = f"""
    SELECT g.id, d.device_id AS device, g.boot_id, g.first_seq, g.last_seq, {COUNTED}::int8 AS missing,
        (SELECT coalesce(string_agg(concat_ws('-', lower(r), nullif(upper(r) - 1, lower(r))), ',' ORDER BY lower(r)), '')
            FROM unnest(g.missing) AS r) AS numbers,
        g.noticed_at, g.closed_at, g.lost_at
    {SELECTED} AND (%(below)s::int8 IS NULL OR g.id < %(below)s)
    ORDER BY g.id DESC LIMIT %(limit)s"""  # noqa: S608 - our own constants

# Counted as text: two devices that leap over everything would be more than a bigint holds.
TOTALS = f"""
    SELECT count(*), count(DISTINCT g.device_id), coalesce(sum({COUNTED}), 0)::text,
        coalesce(sum({COUNTED}) FILTER (WHERE g.lost_at IS NOT NULL), 0)::text {SELECTED}"""


def list_gaps(
    settings: DatabaseSettings, selection: GapSelection, *, limit: int = 100, below: int | None = None
) -> tuple[list[GapView], GapTotals]:
    """Returns a page, newest first, and what there is in all; `below` goes on with older ones than that id.

    Raises:
        NotFound: the device is not registered.
    """
    values = {"device": selection.device, "since": selection.since, "closed": selection.closed}
    with command_connection(settings) as connection:
        device = selection.device
        if device is not None and not connection.execute("SELECT FROM devices WHERE device_id = %s", [device]).rowcount:
            raise not_registered(connection, device)
        with connection.cursor(row_factory=class_row(GapView)) as cursor:
            views = cursor.execute(PAGE, {**values, "limit": limit, "below": below}).fetchall()
        totals = connection.execute(TOTALS, values).fetchall()
    return views, GapTotals(*map(int, totals[0]))
