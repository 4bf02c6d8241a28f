"""One metric of one device over time, as a chart needs it: a bounded number of bins, right to the last reading.

A short span is made of readings, a day of minutes, a month of hours. What the roll-ups do not hold (yet) comes from readings.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from ingest.reading import METRICS
from storage.chart_bins import divide, stretches
from storage.device_views import not_registered
from storage.queries import check_span
from storage.rollup_sql import EXTRA_NUMBER, MINUTE, ORIGIN, PARTS, bounded


@dataclass(frozen=True, slots=True)
class Bin:
    """The values of one stretch of time; there is none for a stretch without values."""

    at: datetime
    """Its first moment, aware UTC."""
    count: int
    avg: float
    min: float
    max: float
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Bins of equal width, in order of time."""

    since: datetime
    until: datetime
    width: timedelta
    source: str
    """readings, readings_1m or readings_1h; what is not rolled up yet is always of readings."""
    bins: list[Bin]


DEVICE = """
    SELECT d.id, (SELECT rolled_until FROM rollup_mark),
        (SELECT bucket FROM {table} b WHERE b.device_id = d.id ORDER BY bucket LIMIT 1)
    FROM devices d WHERE d.device_id = %s"""
_READINGS = """
    SELECT recorded_at AS at, 1::int8 AS count, {bounded} AS sum, v AS min, v AS max, v AS first, v AS last
    FROM (SELECT recorded_at, {value} AS v FROM (
            SELECT recorded_at, {stored} AS value FROM sensor_readings
            WHERE device_id = %(device)s AND recorded_at >= %({name}_since)s AND recorded_at < %({name}_until)s) AS stored
        ) AS readings WHERE v IS NOT NULL"""
_ROLLED = """
    SELECT bucket AS at, {parts} FROM {table}
    WHERE device_id = %(device)s AND bucket >= %(rolled_since)s AND bucket < %(rolled_until)s AND {there} IS NOT NULL"""
_BINS = f"""
    SELECT date_bin(%(width)s, at, {ORIGIN}) AS at, sum(count)::int8 AS count, sum(sum) / sum(count)::float8 AS avg,
        min(min) AS min, max(max) AS max, (array_agg(first ORDER BY at))[1] AS first,
        (array_agg(last ORDER BY at DESC))[1] AS last
    FROM ({{old}} UNION ALL {{rolled}} UNION ALL {{new}}) AS rows GROUP BY 1 ORDER BY 1"""  # noqa: S608 - our constants


def chart(
    connection: psycopg.Connection, device: str, metric: str, *, since: datetime, until: datetime, points: int = 120
) -> Chart:
    """Returns one metric of a device in at most `points` bins.

    Args:
        connection: of any identity that may read.
        device: its id, as in its topics.
        metric: one of METRICS, or a key of `extra`; one that the device never sent has no bins.
        since: aware; the first bin begins at or before it.
        until: aware; the last bin ends at or after it.
        points: 2 to 2,000.

    Raises:
        NotFound: no such device.
        InvalidInput: a moment without offset, an empty span, or a number of points out of range.
    """
    check_span(since, until)
    division = divide(since, until, points)
    row = connection.execute(DEVICE.format(table=division.table or MINUTE).encode(), [device]).fetchone()
    if row is None:
        raise not_registered(connection, device)
    number, mark, first = row
    taken = stretches(division, mark, first)
    values = {"device": number, "metric": metric, "width": division.width}
    for name in ("old", "rolled", "new"):
        values[f"{name}_since"], values[f"{name}_until"] = getattr(taken, name)
    with connection.cursor(row_factory=class_row(Bin)) as cursor:
        bins = cursor.execute(statement(metric, division.table or MINUTE).encode(), values).fetchall()
    return Chart(division.since, division.until, division.width, division.table or "readings", bins)


def statement(metric: str, table: str) -> str:
    """Returns the statement for the bins of a metric, out of readings and one of the roll-ups."""
    known = metric in METRICS
    stored, value = (metric, "value") if known else ("extra->%(metric)s", EXTRA_NUMBER)
    old, new = (_READINGS.format(stored=stored, value=value, bounded=bounded("v"), name=name) for name in ("old", "new"))
    array = [f"(extra->%(metric)s->>{place})::{'int8' if part == 'count' else 'float8'}" for place, part in enumerate(PARTS)]
    parts = [f"{metric}_{part}" for part in PARTS] if known else array
    rolled = _ROLLED.format(parts=", ".join(parts), table=table, there=f"{metric}_count" if known else "extra->%(metric)s")
    return _BINS.format(old=old, rolled=rolled, new=new)
