"""One metric's past as arrays, for back-tests: in pieces, so that memory stays flat however long that past is.

Readings come in order of their evaluation time, min(recorded_at, received_at), as `alerting.monitor` evaluates them: a device
whose clock is ahead is taken at its time of receipt. Late readings are where they belong, and not where they came. The table
is in order of recorded_at: what may still have to stand behind readings of the next page is held back for it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from alerting.stretches import MICROSECOND, Times, Values, microseconds_of
from config.settings import DatabaseSettings
from ingest.reading import METRICS
from storage.command_connection import command_connection
from storage.device_views import not_registered

PAGE = 50_000
"""Readings of one statement; larger pages are not faster."""
PG_EPOCH_US = microseconds_of(datetime(2000, 1, 1, tzinfo=UTC))

# What is stored, and the value of that: of a key of `extra` as the daemon takes it, booleans as 0 and 1. NaN: there is none.
_COLUMN = "coalesce(stored, 'NaN')"
_EXTRA = """CASE jsonb_typeof(stored) WHEN 'number' THEN stored::float8 WHEN 'boolean' THEN stored::boolean::int::float8
    ELSE 'NaN' END"""

# Two byte strings instead of rows, as numpy reads them: measured three times as fast as a binary COPY of rows.
_READINGS = """
    SELECT count(*), max(recorded_at), string_agg(timestamptz_send(at), ''), string_agg(float8send({value}), '')
    FROM (SELECT recorded_at, least(recorded_at, received_at) AS at, {stored} AS stored FROM sensor_readings
        WHERE device_id = %(device)s AND recorded_at > %(after)s AND recorded_at < %(until)s
        ORDER BY recorded_at LIMIT %(limit)s) AS page"""


class Past(NamedTuple):
    """The next readings with a value of the metric, NaN left out, by evaluation time; may be empty."""

    times: Times
    """Microseconds since 1970."""
    values: Values
    reached: datetime
    """How far the search has come."""


def read_history(
    settings: DatabaseSettings, device: str, metric: str, since: datetime, until: datetime, lead: timedelta
) -> Iterator[Past]:
    """Yields one metric of a device from `since` to before `until`, by evaluation time.

    Args:
        settings: of the database.
        device: its id, as in its topics.
        metric: one of METRICS, or a key of `extra`.
        since: aware UTC.
        until: aware UTC.
        lead: how far recorded_at may be ahead of received_at (`ingest.max_clock_skew_s`).

    Raises:
        NotFound: no such device.
    """
    bounds = np.array([microseconds_of(since), microseconds_of(until)])
    times, values = np.empty(0, np.int64), np.empty(0, np.float64)
    for page in _pages(settings, device, metric, since, until + lead):
        times, values = np.concatenate((times, page.times)), np.concatenate((values, page.values))
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            times, values = times[order], values[order]
        settled = int(np.searchsorted(times, microseconds_of(page.reached - lead), "right"))
        begin, end = np.searchsorted(times[:settled], bounds)
        yield Past(times[begin:end], values[begin:end], page.reached)
        times, values = times[settled:], values[settled:]


def _pages(settings: DatabaseSettings, device: str, metric: str, since: datetime, until: datetime) -> Iterator[Past]:
    """Yields pages by recorded_at; the last one reaches to the end."""
    stored, value = (metric, _COLUMN) if metric in METRICS else ("extra->%(metric)s", _EXTRA)
    statement = _READINGS.format(stored=stored, value=value).encode()
    with command_connection(settings) as connection, connection.cursor(binary=True) as cursor:
        row = cursor.execute("SELECT id FROM devices WHERE device_id = %s", [device]).fetchone()
        if row is None:
            raise not_registered(connection, device)
        asked = {"device": row[0], "metric": metric, "after": since - MICROSECOND, "until": until, "limit": PAGE}
        count = PAGE
        while count == PAGE:
            count, reached, times, values = cursor.execute(statement, asked).fetchone() or (0, None, None, None)
            asked["after"] = reached
            yield _past(times or b"", values or b"", reached if count == PAGE else until)


def _past(raw_times: bytes, raw_values: bytes, reached: datetime) -> Past:
    """Reads the wire's timestamptz (microseconds since 2000) and float8."""
    times = np.frombuffer(raw_times, ">i8").astype(np.int64) + PG_EPOCH_US
    values = np.frombuffer(raw_values, ">f8").astype(np.float64)
    there = ~np.isnan(values)
    return Past(times[there], values[there], reached)
