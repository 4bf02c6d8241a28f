"""The rules of docs/mqtt.md, telemetry payload: times. Every unit and notation, and clocks that cannot be right."""

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest

from ingest.clocks import NO_CLOCK_BEFORE, read_time
from ingest.decoding import DEVICE_TIME
from ingest.reading import Reason
from tests.unit.messages import NOW, RETENTION, SKEW, decoded, outcome

BERLIN = ZoneInfo("Europe/Berlin")
AT = datetime(2026, 11, 22, 9, 59, 58, 123000, tzinfo=UTC)
SECONDS = 1795341598
MICRO = timedelta(microseconds=1)

TIMES: dict[str, tuple[object, datetime]] = {
    "RFC 3339": ("2026-11-22T09:59:58.123Z", AT),
    "offset": ("2026-11-22T10:59:58.123+01:00", AT),
    "negative offset": ("2026-11-21T23:29:58.123-10:30", AT),
    "unknown offset": ("2026-11-22T09:59:58.123-00:00", AT),
    "offset without a colon": ("2026-11-22T10:59:58.123+0100", AT),
    "offset of hours": ("2026-11-22T10:59:58.123+01", AT),
    "lower case": ("2026-11-22t09:59:58.123z", AT),
    "a space for the T": ("2026-11-22 09:59:58.123Z", AT),
    "a comma for the point": ("2026-11-22T09:59:58,123Z", AT),
    "one digit": ("2026-11-22T09:59:58.1Z", AT.replace(microsecond=100_000)),
    "six digits": ("2026-11-22T09:59:58.123456Z", AT.replace(microsecond=123_456)),
    "nine digits are rounded": ("2026-11-22T09:59:58.123456789Z", AT.replace(microsecond=123_457)),
    "nine digits, down": ("2026-11-22T09:59:58.123456400Z", AT.replace(microsecond=123_456)),
    "nine digits, into the next second": ("2026-11-22T09:59:57.999999999Z", AT.replace(microsecond=0)),
    "no fraction": ("2026-11-22T09:59:58Z", AT.replace(microsecond=0)),
    "no seconds": ("2026-11-22T09:59Z", AT.replace(second=0, microsecond=0)),
    "seconds": (SECONDS, AT.replace(microsecond=0)),
    "seconds with a fraction": (SECONDS + 0.125, AT.replace(microsecond=125_000)),
    "milliseconds": (SECONDS * 1000 + 123, AT),
    "microseconds": (SECONDS * 10**6 + 123_456, AT.replace(microsecond=123_456)),
    "nanoseconds": (SECONDS * 10**9 + 123_456_789, AT.replace(microsecond=123_456)),
    "milliseconds as a float": (float(SECONDS * 1000 + 123), AT),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_time(name: str) -> None:
    value, expected = TIMES[name]
    found = decoded(json.dumps({"rpm": 1, "recorded_at": value}))
    assert outcome(found) == ([{"rpm": 1.0, "recorded_at": expected}], [])
    moment = found.samples[0].recorded_at
    assert moment is not None
    assert moment.utcoffset() == timedelta()


@pytest.mark.parametrize("field", ["recorded_at", "ts", "timestamp", "time"])
def test_names_of_the_time(field: str) -> None:
    payload = json.dumps({field: SECONDS, "rpm": 1})
    assert outcome(decoded(payload)) == ([{"rpm": 1.0, "recorded_at": AT.replace(microsecond=0)}], [])


def test_the_first_name_counts_and_none_is_a_metric() -> None:
    payload = json.dumps({"ts": 1, "recorded_at": SECONDS, "time": 5, "timestamp": None, "rpm": 1})
    assert outcome(decoded(payload)) == ([{"rpm": 1.0, "recorded_at": AT.replace(microsecond=0)}], [])


def test_null_is_no_time() -> None:
    assert outcome(decoded('{"recorded_at":null,"ts":null,"rpm":1}')) == ([{"rpm": 1.0}], [])


BAD = {
    "word": "yesterday",
    "empty": "",
    "number in text": "1795341598",
    "date only": "2026-11-22",
    "month 13": "2026-13-22T10:00:00Z",
    "30 February": "2026-02-30T10:00:00Z",
    "hour 25": "2026-11-22T25:00:00Z",
    "offset 25": "2026-11-22T10:00:00+25:00",
    "digits of another script": "٢٠٢٦-11-22T10:00:00Z",
    "trailing": "2026-11-22T10:00:00Zz",
    "line break": "2026-11-22T10:00:00Z\n",
    "NUL": "2026-11-22T10:00:00Z\0",
    "long": "2" * 60_000,
    "boolean": True,
    "list": [SECONDS],
    "object": {"s": SECONDS},
    "negative": -1,
    "beyond nanoseconds": 10**21,
    "beyond 64 bits": 10**30,
    "beyond nanoseconds as a float": 1e30,
}


@pytest.mark.parametrize("name", BAD)
def test_no_time(name: str) -> None:
    payload = json.dumps([{"rpm": 1, "recorded_at": BAD[name]}, {"rpm": 2}])
    assert outcome(decoded(payload)) == ([{"rpm": 2.0}], [Reason.BAD_TIME])


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_no_number_for_a_time(literal: str) -> None:
    assert outcome(decoded(f'{{"rpm":1,"ts":{literal}}}')) == ([], [Reason.BAD_TIME])


def test_a_local_time_needs_a_zone() -> None:
    payload = '{"rpm":1,"recorded_at":"2026-11-22T10:59:58.123"}'
    assert outcome(decoded(payload)) == ([], [Reason.NAIVE_TIMESTAMP])
    assert outcome(decoded(payload, zone=BERLIN)) == ([{"rpm": 1.0, "recorded_at": AT}], [])


def test_an_offset_wins_over_the_zone() -> None:
    found = decoded('{"rpm":1,"recorded_at":"2026-11-22T09:59:58.123Z"}', zone=BERLIN)
    assert found.samples[0].recorded_at == AT


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2026-10-25T01:59:59", "2026-10-24T23:59:59+00:00"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00+00:00"),  # occurs twice: the first
        ("2026-10-25T03:00:00", "2026-10-25T02:00:00+00:00"),
        ("2026-03-29T01:59:59", "2026-03-29T00:59:59+00:00"),
        ("2026-03-29T02:30:00", "2026-03-29T01:30:00+00:00"),  # does not occur: as if the clock had not been put forward
        ("2026-03-29T03:00:00", "2026-03-29T01:00:00+00:00"),
    ],
)
def test_daylight_saving(local: str, utc: str) -> None:
    assert read_time(local, BERLIN) == datetime.fromisoformat(utc)


def test_msgpack_timestamps() -> None:
    for payload in (msgspec.msgpack.encode({"ts": AT, "rpm": 1}), msgspec.msgpack.encode({"recorded_at": AT, "rpm": 1})):
        assert outcome(decoded(payload)) == ([{"rpm": 1.0, "recorded_at": AT}], [])


def test_the_window() -> None:
    def one(moment: datetime) -> tuple[list[dict[str, object]], list[Reason]]:
        return outcome(decoded(json.dumps({"rpm": 1, "ts": moment.isoformat()})))

    oldest, newest = NOW - RETENTION, NOW + SKEW
    assert one(oldest) == ([{"rpm": 1.0, "recorded_at": oldest}], [])
    assert one(oldest - MICRO) == ([], [Reason.TOO_LATE])
    assert one(newest) == ([{"rpm": 1.0, "recorded_at": newest}], [])
    assert one(newest + MICRO) == ([{"rpm": 1.0, DEVICE_TIME: (newest + MICRO).isoformat()}], [])
    assert one(NO_CLOCK_BEFORE) == ([], [Reason.TOO_LATE])


def test_ahead_is_flagged_and_its_neighbour_is_not_touched() -> None:
    found = decoded(f'[{{"rpm":1,"ts":{SECONDS}}},{{"rpm":2,"oil":3,"ts":{SECONDS + 10**6}}}]')
    assert found.clock_ahead
    assert not found.clock_unset
    ahead = (AT.replace(microsecond=0) + timedelta(seconds=10**6)).isoformat()
    expected = [{"rpm": 1.0, "recorded_at": AT.replace(microsecond=0)}, {"rpm": 2.0, "oil": 3, DEVICE_TIME: ahead}]
    assert outcome(found) == (expected, [])


def test_no_clock_keeps_the_spacing() -> None:
    found = decoded('[{"rpm":1,"ts":100},{"rpm":2,"ts":160},{"rpm":3,"ts":130.5}]')
    assert found.clock_unset
    before = [timedelta(seconds=60), timedelta(0), timedelta(seconds=29.5)]
    assert outcome(found) == ([{"rpm": n + 1.0, "before": before[n]} for n in range(3)], [])


@pytest.mark.parametrize(
    "time", ["1970-01-01T00:00:07Z", "2000-01-01T00:00:00Z", "2019-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"]
)
def test_one_reading_without_a_clock_is_now(time: str) -> None:
    assert outcome(decoded(f'{{"rpm":1,"ts":"{time}"}}')) == ([{"rpm": 1.0, "before": timedelta(0)}], [])


def test_no_clock_with_neighbours_that_have_one_keeps_their_order() -> None:
    found = decoded(f'[{{"rpm":1,"ts":5}},{{"rpm":2,"ts":{SECONDS}}},{{"rpm":3,"ts":6}},{{"rpm":4}}]')
    assert [sample.rpm for sample in found.samples] == [1.0, 2.0, 3.0, 4.0]
    assert [sample.before for sample in found.samples] == [timedelta(seconds=1), None, timedelta(0), None]


def test_no_clock_and_a_spacing_beyond_the_retention() -> None:
    found = decoded('[{"rpm":1,"ts":0},{"rpm":2,"ts":1000000000}]')
    assert outcome(found) == ([{"rpm": 2.0, "before": timedelta(0)}], [Reason.TOO_LATE])


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_beyond_the_calendar(time: str) -> None:
    assert outcome(decoded(f'{{"rpm":1,"ts":"{time}"}}')) == ([], [Reason.BAD_TIME])
