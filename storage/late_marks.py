"""Late readings' hours are marked in the readings' transaction, so that their roll-ups are made anew."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import chain
from operator import attrgetter

import msgspec

from ingest.batch import Batch
from ingest.reading import Reading
from storage.database import Connection

_RECORDED_AT = attrgetter("recorded_at")
_HOUR = timedelta(hours=1)
_encode = msgspec.json.Encoder().encode

Hours = dict[datetime, set[int]]
"""Numbers of devices by the begin of an hour."""

MARK = """
    INSERT INTO rollup_repairs (hour, devices)
    SELECT (mark->>0)::timestamptz, ARRAY(SELECT number::int8 FROM jsonb_array_elements_text(mark->1) AS number)
    FROM jsonb_array_elements(%s::jsonb) AS mark"""


def late_hours(batch: Batch, rolled_until: datetime | None) -> Hours:
    """Returns the hours of a batch's readings before a moment, and whose they are; None: nothing is rolled up yet."""
    if rolled_until is None:
        return {}
    fresh, rest = batch.fresh, batch.rest
    if not any(readings and min(map(_RECORDED_AT, readings)) < rolled_until for readings in (fresh, rest)):
        return {}
    return _hours(chain(fresh, rest), rolled_until)


def _hours(readings: Iterable[Reading], rolled_until: datetime) -> Hours:
    """Neighbours are mostly of one hour: its bounds are kept at hand."""
    found: Hours = {}
    begin = end = datetime.min.replace(tzinfo=rolled_until.tzinfo)
    devices = set[int]()
    for reading in readings:
        moment = reading.recorded_at
        if moment >= rolled_until:
            continue
        if not begin <= moment < end:
            begin = moment.astimezone(rolled_until.tzinfo).replace(minute=0, second=0, microsecond=0)
            end = begin + _HOUR
            devices = found.setdefault(begin, set())
        devices.add(reading.device_id)
    return found


async def write_marks(connection: Connection, hours: Mapping[datetime, set[int]]) -> None:
    """Writes them, inside the caller's transaction (and pipeline)."""
    marks = [(hour, sorted(devices)) for hour, devices in hours.items()]
    await connection.execute(MARK, [_encode(marks).decode()])
