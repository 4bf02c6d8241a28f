"""The rules of docs/mqtt.md, telemetry payload: values, shapes and limits. One row per rule, with the exact outcome."""

import gzip
import json
import math
import struct
from typing import Any

import msgspec
import pytest

from config.settings import IngestSettings
from ingest.reading import Reason
from tests.unit.messages import LIMITS, Outcome, decoded, outcome

R = Reason
GENEROUS = IngestSettings(max_payload_bytes=8_000_000)


def stored(*samples: dict[str, Any]) -> Outcome:
    return list(samples), []


def refused(*reasons: Reason) -> Outcome:
    return [], list(reasons)


JSON_ROWS: dict[str, tuple[bytes | str, Outcome]] = {
    # Shapes
    "one reading": ('{"temperature":71.2}', stored({"temperature": 71.2})),
    "all columns": (
        '{"temperature":1,"humidity":2,"pressure":3,"vibration":4,"power_consumption":5,"rpm":6}',
        stored({"temperature": 1.0, "humidity": 2.0, "pressure": 3.0, "vibration": 4.0, "power_consumption": 5.0, "rpm": 6.0}),
    ),
    "array": ('[{"temperature":1},{"rpm":2}]', stored({"temperature": 1.0}, {"rpm": 2.0})),
    "white space around": (' \r\n\t[ {"rpm":1} , {"rpm":2} ] \n', stored({"rpm": 1.0}, {"rpm": 2.0})),
    "white space around one": ('\n {"rpm":1} ', stored({"rpm": 1.0})),
    "values wrapper": ('{"values":{"temperature":71.2}}', stored({"temperature": 71.2})),
    "values wrapper with numbers beside": ('{"rpm":1,"values":{"temperature":2}}', stored({"rpm": 1.0, "temperature": 2.0})),
    "the same metric in and beside values": ('{"rpm":1,"values":{"rpm":2}}', refused(R.AMBIGUOUS_METRIC)),
    "number": ("5", refused(R.WRONG_SHAPE)),
    "text": ('"online"', refused(R.WRONG_SHAPE)),
    "null": ("null", refused(R.WRONG_SHAPE)),
    "boolean": ("true", refused(R.WRONG_SHAPE)),
    "array of other things": ('[1,null,[],"x",{"rpm":1}]', ([{"rpm": 1.0}], [R.WRONG_SHAPE] * 4)),
    "array in an array": ('[[{"rpm":1}]]', refused(R.WRONG_SHAPE)),
    "empty array": ("[]", refused(R.NO_METRICS)),
    "empty object": ("{}", refused(R.NO_METRICS)),
    "the key twice: the last counts, as everywhere": ('{"rpm":1,"rpm":2}', stored({"rpm": 2.0})),
    # Bytes that are no JSON
    "no bytes": (b"", refused(R.EMPTY)),
    "white space only": (b"  ", refused(R.MALFORMED)),
    "cut off": ('{"temperature":71', refused(R.MALFORMED)),
    "cut off in an array": ('[{"rpm":1},{"rpm":', refused(R.MALFORMED)),
    "trailing text": ('{"rpm":1} {"rpm":2}', refused(R.MALFORMED)),
    "trailing comma": ('[{"rpm":1},]', refused(R.MALFORMED)),
    "trailing text after NaN": ('{"rpm":NaN} x', refused(R.MALFORMED)),
    "trailing text after an array with NaN": ('[{"rpm":NaN}] x', refused(R.MALFORMED)),
    "plain word": (b"online", refused(R.MALFORMED)),
    "single quotes": ("{'rpm':1}", refused(R.MALFORMED)),
    "comma decimals": ('{"temperature":71,2}', refused(R.MALFORMED)),
    "invalid UTF-8 in text": (b'{"rpm":1,"note":"\xff\xfe"}', refused(R.MALFORMED)),
    "invalid UTF-8 in a key": (b'{"\xff":1}', refused(R.MALFORMED)),
    "byte order mark": (b'\xef\xbb\xbf{"rpm":1}', refused(R.MALFORMED)),
    "UTF-16": ('{"rpm":1}'.encode("utf-16"), refused(R.MALFORMED)),
    "NUL bytes": (bytes(100), refused(R.MALFORMED)),
    "gzip": (gzip.compress(b'{"rpm":1}', mtime=0), refused(R.MALFORMED)),
    "binary": (bytes(range(256)), refused(R.MALFORMED)),
    # Numbers
    "integer": ('{"temperature":-5}', stored({"temperature": -5.0})),
    "exponent": ('{"temperature":1.5e2}', stored({"temperature": 150.0})),
    "minus zero": ('{"temperature":-0.0}', stored({"temperature": -0.0})),
    "denormal": ('{"temperature":5e-324}', stored({"temperature": 5e-324})),
    "below the smallest": ('{"temperature":1e-999}', stored({"temperature": 0.0})),
    "largest double": ('{"temperature":1.7976931348623157e308}', stored({"temperature": 1.7976931348623157e308})),
    "beyond a double": ('{"temperature":1e999}', refused(R.OUT_OF_RANGE)),
    "beyond a double, negative": ('{"oil_level":-1e999}', refused(R.OUT_OF_RANGE)),
    "integer of 21 digits": ('{"temperature":100000000000000000000}', stored({"temperature": 1e20})),
    "integer of 309 nines": ('{"temperature":' + "9" * 309 + "}", refused(R.OUT_OF_RANGE)),
    "integer of 5000 digits": ('{"temperature":' + "9" * 5000 + "}", refused(R.OUT_OF_RANGE)),
    "extra of 5000 digits": ('{"oil_level":' + "9" * 5000 + "}", refused(R.OUT_OF_RANGE)),
    "fraction of 5000 digits": ('{"temperature":0.' + "3" * 5000 + "}", stored({"temperature": 1 / 3})),
    "NaN": ('{"temperature":NaN}', refused(R.NOT_FINITE)),
    "Infinity": ('{"temperature":Infinity}', refused(R.NOT_FINITE)),
    "-Infinity": ('{"temperature":-Infinity}', refused(R.NOT_FINITE)),
    "NaN in an extra": ('{"oil_level":NaN,"temperature":1}', refused(R.NOT_FINITE)),
    "leading zero": ('{"temperature":01}', refused(R.MALFORMED)),
    "leading plus": ('{"temperature":+1}', refused(R.MALFORMED)),
    # Types
    "text for a number": ('{"temperature":"71.2"}', refused(R.BAD_TYPE)),
    "boolean for a number": ('{"temperature":true}', refused(R.BAD_TYPE)),
    "array for a number": ('{"temperature":[71.2]}', refused(R.BAD_TYPE)),
    "null is absent": ('{"temperature":null,"rpm":1,"oil_level":null}', stored({"rpm": 1.0})),
    "only null": ('{"temperature":null}', refused(R.NO_METRICS)),
    "only text": ('{"state":"running"}', refused(R.NO_METRICS)),
    "text beside a number": ('{"state":"running","rpm":1}', stored({"rpm": 1.0})),
    "text with a lone surrogate": ('{"state":"\\ud800","rpm":1}', stored({"rpm": 1.0})),
    "text with NUL": ('{"state":"\\u0000","rpm":1}', stored({"rpm": 1.0})),
    "array beside a number": ('{"curve":[1,2,3],"rpm":1}', stored({"rpm": 1.0})),
    "extra number": ('{"oil_level":0.7}', stored({"oil_level": 0.7})),
    "extra integer stays one": ('{"count":9007199254740993}', stored({"count": 9007199254740993})),
    "extra boolean": ('{"door_open":true,"running":false}', stored({"door_open": True, "running": False})),
    # Names
    "every character of a name": ('{"Aa0_.:-":1}', stored({"Aa0_.:-": 1})),
    "name of 100": (json.dumps({"x" * 100: 1}), stored({"x" * 100: 1})),
    "name of 101": (json.dumps({"x" * 101: 1}), refused(R.BAD_METRIC_NAME)),
    "empty name": ('{"":1}', refused(R.BAD_METRIC_NAME)),
    "name with a space": ('{"oil level":1}', refused(R.BAD_METRIC_NAME)),
    "name with NUL": ('{"a\\u0000":1}', refused(R.BAD_METRIC_NAME)),
    "name with a lone surrogate": ('{"a\\udfff":1}', refused(R.BAD_METRIC_NAME)),
    "name beyond ASCII": ('{"temp\u00e9rature":1}', refused(R.BAD_METRIC_NAME)),
    "name of a slash": ('{"a/b":true}', refused(R.BAD_METRIC_NAME)),
    "a bad name of text is only ignored": ('{"a b":"x","rpm":1}', stored({"rpm": 1.0})),
    # Nesting
    "nested": ('{"motor":{"speed":5,"load":0.5}}', stored({"motor_speed": 5, "motor_load": 0.5})),
    "nested into a column": ('{"power":{"consumption":5}}', stored({"power_consumption": 5.0})),
    "nested in values": ('{"values":{"motor":{"load":1}}}', stored({"motor_load": 1})),
    "deeper than two: ignored": ('{"a":{"b":{"c":1}},"rpm":1}', stored({"rpm": 1.0})),
    "nested twice the same": ('{"a_b":1,"a":{"b":2}}', refused(R.AMBIGUOUS_METRIC)),
    "nested over a column": ('{"power_consumption":1,"power":{"consumption":5}}', refused(R.AMBIGUOUS_METRIC)),
    "four levels": ('[{"values":{"a":{"b":1}}}]', stored({"a_b": 1})),
    "five levels": ('[{"rpm":1},{"values":{"a":{"b":{"c":1}}}}]', refused(R.TOO_DEEP)),
    "four levels of arrays": ('{"a":[[[1]]],"rpm":1}', stored({"rpm": 1.0})),
    "five levels of arrays": ('{"a":[[[[1]]]],"rpm":1}', refused(R.TOO_DEEP)),
    "64 KB of [": (b"[" * 65_536, refused(R.TOO_DEEP)),
    "64 KB of objects": (b'{"a":' * 13_000, refused(R.TOO_DEEP)),
    "deep inside one reading": ('{"rpm":1,"a":' + "[" * 30_000 + "]" * 30_000 + "}", refused(R.TOO_DEEP)),
    # Neighbours
    "neighbours of NaN": ('[{"rpm":1},{"rpm":NaN},{"rpm":3}]', ([{"rpm": 1.0}, {"rpm": 3.0}], [R.NOT_FINITE])),
    "neighbours of Infinity": ('[{"rpm":Infinity},{"rpm":3}]', ([{"rpm": 3.0}], [R.NOT_FINITE])),
    "neighbours of 1e999": ('[{"rpm":1e999},{"rpm":3}]', ([{"rpm": 3.0}], [R.OUT_OF_RANGE])),
    "neighbours of text": ('[{"rpm":"1"},{"rpm":3}]', ([{"rpm": 3.0}], [R.BAD_TYPE])),
    "neighbours of nothing": ('[{},{"rpm":3},{}]', ([{"rpm": 3.0}], [R.NO_METRICS] * 2)),
    "neighbours of a surrogate": ('[{"\\ud800":1},{"rpm":3}]', ([{"rpm": 3.0}], [R.BAD_METRIC_NAME])),
    "neighbours of a stranger": ('[{"rpm":1,"device_id":"x"},{"rpm":3}]', ([{"rpm": 3.0}], [R.DEVICE_MISMATCH])),
    # Who it is
    "the topic's device": ('{"device_id":"press-1","rpm":1}', stored({"rpm": 1.0})),
    "another device": ('{"device_id":"press-2","rpm":1}', refused(R.DEVICE_MISMATCH)),
    "device of another case": ('{"device_id":"PRESS-1","rpm":1}', refused(R.DEVICE_MISMATCH)),
    "device as a number": ('{"device_id":1,"rpm":1}', refused(R.DEVICE_MISMATCH)),
    "device null": ('{"device_id":null,"rpm":1}', stored({"rpm": 1.0})),
    # Sequence
    "seq": ('{"rpm":1,"seq":0}', stored({"rpm": 1.0, "seq": 0})),
    "seq and boot": ('{"rpm":1,"seq":7,"boot_id":"b-1"}', stored({"rpm": 1.0, "seq": 7, "boot_id": "b-1"})),
    "boot as a number": ('{"rpm":1,"seq":7,"boot_id":17}', stored({"rpm": 1.0, "seq": 7, "boot_id": "17"})),
    "seq null": ('{"rpm":1,"seq":null,"boot_id":null}', stored({"rpm": 1.0})),
    "largest seq": (f'{{"rpm":1,"seq":{2**63 - 1}}}', stored({"rpm": 1.0, "seq": 2**63 - 1})),
    "seq too large": (f'{{"rpm":1,"seq":{2**63}}}', refused(R.BAD_SEQUENCE)),
    "seq of 5000 digits": ('{"rpm":1,"seq":' + "9" * 5000 + "}", refused(R.BAD_SEQUENCE)),
    "seq negative": ('{"rpm":1,"seq":-1}', refused(R.BAD_SEQUENCE)),
    "seq fraction": ('{"rpm":1,"seq":1.5}', refused(R.BAD_SEQUENCE)),
    "seq text": ('{"rpm":1,"seq":"1"}', refused(R.BAD_SEQUENCE)),
    "seq boolean": ('{"rpm":1,"seq":true}', refused(R.BAD_SEQUENCE)),
    "seq NaN": ('{"rpm":1,"seq":NaN}', refused(R.BAD_SEQUENCE)),
    "boot empty": ('{"rpm":1,"seq":1,"boot_id":""}', refused(R.BAD_SEQUENCE)),
    "boot of 101": (json.dumps({"rpm": 1, "seq": 1, "boot_id": "x" * 101}), refused(R.BAD_SEQUENCE)),
    "boot with NUL": ('{"rpm":1,"seq":1,"boot_id":"\\u0000"}', refused(R.BAD_SEQUENCE)),
    "boot with a surrogate": ('{"rpm":1,"seq":1,"boot_id":"\\ud800"}', refused(R.BAD_SEQUENCE)),
    "boot list": ('{"rpm":1,"seq":1,"boot_id":[1]}', refused(R.BAD_SEQUENCE)),
    "seq is no metric": ('{"seq":1,"boot_id":2}', refused(R.NO_METRICS)),
    # Limits
    "64 extra metrics": (json.dumps({f"m{n}": n for n in range(64)}), stored({f"m{n}": n for n in range(64)})),
    "65 extra metrics": (json.dumps({f"m{n}": n for n in range(65)}), refused(R.TOO_MANY_METRICS)),
    "64 extra and columns": (
        json.dumps({"rpm": 1} | {f"m{n}": n for n in range(64)}),
        stored({"rpm": 1.0} | {f"m{n}": n for n in range(64)}),
    ),
    "1000 readings": (json.dumps([{"rpm": n} for n in range(1000)]), stored(*({"rpm": float(n)} for n in range(1000)))),
    "1001 readings": (json.dumps([{"rpm": n} for n in range(1001)]), refused(R.TOO_MANY_READINGS)),
    "1001 readings, one of them NaN": ("[" + '{"rpm":1},' * 1000 + '{"rpm":NaN}]', refused(R.TOO_MANY_READINGS)),
    "64 KiB": (b'{"rpm":1}' + b" " * (65_536 - 9), stored({"rpm": 1.0})),
    "64 KiB and a byte": (b'{"rpm":1}' + b" " * (65_536 - 8), refused(R.TOO_LARGE)),
}


@pytest.mark.parametrize("name", JSON_ROWS)
def test_json(name: str) -> None:
    payload, expected = JSON_ROWS[name]
    assert outcome(decoded(payload)) == expected


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain", "APPLICATION/JSON", ""])
def test_json_of_any_content_type(kind: str) -> None:
    assert outcome(decoded('{"rpm":1}', kind)) == stored({"rpm": 1.0})


def test_minus_zero_keeps_its_sign() -> None:
    (sample,) = decoded('{"temperature":-0.0}').samples
    assert sample.temperature is not None
    assert math.copysign(1, sample.temperature) == -1


@pytest.mark.parametrize(
    "payload",
    [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"\x91" * 100_000, b"[NaN," + b"[" * 100_000],
    ids=["arrays", "objects", "msgpack", "after NaN"],
)
def test_a_bomb_of_depth(payload: bytes) -> None:
    assert outcome(decoded(payload, limits=GENEROUS)) == refused(R.TOO_DEEP)


def test_a_bomb_of_keys() -> None:
    payload = json.dumps({f"k{n}": n for n in range(100_000)})
    assert outcome(decoded(payload)) == refused(R.TOO_LARGE)
    assert outcome(decoded(payload, limits=GENEROUS)) == refused(R.TOO_MANY_METRICS)


def test_too_large_keeps_the_beginning() -> None:
    (rejected,) = decoded(b"x" * 70_000).rejected
    assert rejected.payload == b"x" * LIMITS.max_payload_bytes


def test_each_refused_reading_keeps_its_own_bytes() -> None:
    for array in ('[{"rpm":1},{"rpm" : "x"},{"rpm":3}]', '[{"rpm":1},{"rpm" : "x"},{"rpm":NaN}]'):
        found = decoded(array)
        assert found.rejected[0].payload == b'{"rpm" : "x"}'
        assert found.samples[0].index == 0


def test_ignored_values_are_counted() -> None:
    found = decoded('[{"rpm":1,"a":"x","b":[1],"c":{"d":{"e":1}}},{"rpm":2,"f":"y","g":null}]')
    assert found.ignored == 4
    assert [sample.index for sample in found.samples] == [0, 1]


PACK = msgspec.msgpack.encode
MSGPACK = "application/msgpack"
MSGPACK_ROWS: dict[str, tuple[bytes, str | None, Outcome]] = {
    "map, by first byte": (PACK({"rpm": 1, "oil": 2.5}), None, stored({"rpm": 1.0, "oil": 2.5})),
    "array, by first byte": (PACK([{"rpm": 1}, {"rpm": 2}]), None, stored({"rpm": 1.0}, {"rpm": 2.0})),
    "map16, by first byte": (b"\xde\x00\x01\xa3rpm\x01", None, stored({"rpm": 1.0})),
    "map32, by first byte": (b"\xdf\x00\x00\x00\x01\xa3rpm\x01", None, stored({"rpm": 1.0})),
    "array16, by first byte": (b"\xdc\x00\x01\x81\xa3rpm\x01", None, stored({"rpm": 1.0})),
    "array32, by first byte": (b"\xdd\x00\x00\x00\x01\x81\xa3rpm\x01", None, stored({"rpm": 1.0})),
    "by content type": (PACK({"rpm": 1}), MSGPACK, stored({"rpm": 1.0})),
    "by content type with a parameter": (PACK({"rpm": 1}), "Application/MsgPack; v=5", stored({"rpm": 1.0})),
    "by an older content type": (PACK({"rpm": 1}), "application/x-msgpack", stored({"rpm": 1.0})),
    "said to be JSON": (PACK({"rpm": 1}), "application/json", refused(R.MALFORMED)),
    "JSON said to be MessagePack is JSON all the same": (b'{"rpm":1}', MSGPACK, stored({"rpm": 1.0})),
    "array of JSON said to be MessagePack": (b' [{"rpm":1}]', MSGPACK, stored({"rpm": 1.0})),
    "float32": (b"\x81\xa3rpm\xca" + struct.pack(">f", 0.5), None, stored({"rpm": 0.5})),
    "NaN": (PACK({"rpm": math.nan}), None, refused(R.NOT_FINITE)),
    "Infinity": (PACK({"oil": math.inf}), None, refused(R.NOT_FINITE)),
    "-Infinity": (PACK({"rpm": -math.inf}), None, refused(R.NOT_FINITE)),
    "neighbours of NaN": (PACK([{"rpm": math.nan}, {"rpm": 2}]), None, ([{"rpm": 2.0}], [R.NOT_FINITE])),
    "largest integer": (PACK({"count": 2**64 - 1}), None, stored({"count": 2**64 - 1})),
    "boolean": (PACK({"on": True}), None, stored({"on": True})),
    "boolean for a number": (PACK({"rpm": True}), None, refused(R.BAD_TYPE)),
    "bytes for a number": (PACK({"rpm": b"1"}), None, refused(R.BAD_TYPE)),
    "bytes beside a number": (PACK({"blob": b"1", "rpm": 1}), None, stored({"rpm": 1.0})),
    "extension beside a number": (b"\x82\xa1x\xd4\x05\x00\xa3rpm\x01", None, stored({"rpm": 1.0})),
    "bytes for a key": (PACK({b"rpm": 1}), None, refused(R.BAD_METRIC_NAME)),
    "null is absent": (PACK({"rpm": None, "oil": 1}), None, stored({"oil": 1})),
    "empty map": (b"\x80", None, refused(R.NO_METRICS)),
    "empty array": (b"\x90", None, refused(R.NO_METRICS)),
    "no bytes": (b"", MSGPACK, refused(R.EMPTY)),
    "number": (b"\x05", MSGPACK, refused(R.WRONG_SHAPE)),
    "cut off": (PACK({"rpm": 1.5})[:-1], None, refused(R.MALFORMED)),
    "trailing bytes": (PACK({"rpm": 1}) + b"\x00", None, refused(R.MALFORMED)),
    "reserved byte": (b"\x81\xa3rpm\xc1", None, refused(R.MALFORMED)),
    "invalid UTF-8": (b"\x81\xa3\xff\xfe\xfd\x01", None, refused(R.MALFORMED)),
    "map as a key": (b"\x81\x81\x01\x02\x03", None, refused(R.MALFORMED)),
    "four thousand million readings announced": (b"\xdd\xff\xff\xff\xff", None, refused(R.MALFORMED)),
    "four thousand million keys announced": (b"\xdf\xff\xff\xff\xff", None, refused(R.MALFORMED)),
    "1001 readings": (PACK([{"rpm": 1}] * 1001), None, refused(R.TOO_MANY_READINGS)),
    "five levels": (PACK([{"a": {"b": {"c": {"d": 1}}}}]), None, refused(R.TOO_DEEP)),
    "64 KB of [": (b"\x91" * 65_536, None, refused(R.TOO_DEEP)),
    "64 KB of {": (b"\x81\xa1a" * 21_000, None, refused(R.TOO_DEEP)),
}


@pytest.mark.parametrize("name", MSGPACK_ROWS)
def test_msgpack(name: str) -> None:
    payload, kind, expected = MSGPACK_ROWS[name]
    assert outcome(decoded(payload, kind)) == expected


def test_each_refused_msgpack_reading_keeps_its_own_bytes() -> None:
    (rejected,) = decoded(PACK([{"rpm": 1}, {"rpm": "x"}])).rejected
    assert rejected.payload == PACK({"rpm": "x"})
