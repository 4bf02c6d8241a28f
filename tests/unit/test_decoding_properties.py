"""Decoding, by property: nothing raises, both ways agree, and every reading is accounted for exactly once."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS
from prometheus_client import CollectorRegistry

from config.settings import IngestSettings, SourceSettings
from config.storage_settings import RetentionSettings
from ingest.batch import Batch
from ingest.devices import DeviceRow, Registry
from ingest.intake import Intake
from ingest.layouts import Layout, layout_of
from ingest.metrics import IngestMetrics
from ingest.reading import METRICS
from ingest.routes import Routes
from mqtt.connection import Connection, Deliveries
from tests.unit.messages import NOW, decoded

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
TOPIC = "factory/devices/press-1/telemetry"
SECONDS = 1795341598
NOWHERE = cast("Connection", None)
TELEGRAF = SourceSettings(name="telegraf", filter="telegraf/{device}", format="telegraf")
TAGGED = SourceSettings(name="tagged", filter="tagged", format="telegraf", device_field="machine")
SOURCES = (TELEGRAF, TAGGED, SourceSettings(name="field", filter="field", device_field="serial"))
LAYOUTS = (Layout(), *(layout_of(source) for source in SOURCES))
TOPICS = (
    TOPIC,
    "factory/devices/stranger/telemetry",
    "factory/devices/a b/telemetry",
    "telegraf/press-1",
    "tagged",
    "field",
    "x",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
kinds = st.sampled_from([None, "application/json", "application/msgpack", "text/plain", ""])

# Literals as devices write them, good and bad, so that most readings are nearly right.
NUMBERS = """0 -0 -0.0 1 71.25 1e3 1E-7 5e-324 1e999 NaN -Infinity null true "1" [1] {} 9007199254740993 18446744073709551617
    123456789012345678901234567890 0.1234567890123456789"""
numbers = st.sampled_from([*NUMBERS.split(), "9" * 400]) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
MOMENTS = f"""null "2026-11-22T09:59:58.123Z" "2026-11-22T09:59:58.1234565Z" "2026-11-22T09:59:57.99999951Z" "" "x" true 0 17 -1
    "2026-11-22T10:59:58.123+01:00" "2026-11-22t09:59:58z" "2026-11-22T09:59:58,5Z" "2026-11-22T09:59Z" "2026-11-22T09:59:58"
    "2026-11-22T09:59:60Z" "2026-11-22T24:00:00Z" "2026-11-22T09:59:58.1234567890123Z" "0001-01-01T00:00:00+14:00" 1e30
    "9999-12-31T23:59:59-12:00" "1970-01-01T00:00:00Z" "2026-01-01T00:00:00Z" {SECONDS} {SECONDS}123 {SECONDS}123456
    {SECONDS}123456789 {SECONDS}.5 {SECONDS}.0e3 {SECONDS + 9999} 99999999999999999999"""
moments = st.sampled_from([*MOMENTS.split(), '"2026-11-22 09:59:58z"']) | st.integers(SECONDS - 3, SECONDS).map(str)
sequences = st.sampled_from(
    ["null", "0", "1", "2", "5", "-1", "1.0", "9223372036854775807", "9223372036854775808", '"1"', "true"]
)
boots = st.sampled_from(["null", '"a"', '"b"', '""', "7", '"\\u0000"', '"' + "x" * 101 + '"', '"\\ud800"'])
keys = {**dict.fromkeys(METRICS, numbers), "recorded_at": moments, "ts": moments, "seq": sequences, "boot_id": boots}
keys |= {"oil_level": numbers, "a b": numbers, "device_id": st.sampled_from(['"press-1"', '"other"', "null"])}


@st.composite
def objects(draw: st.DrawFn, names: Sequence[str]) -> str:
    chosen = draw(st.lists(st.sampled_from(names), max_size=6))
    return "{" + ", ".join(f'"{name}": {draw(keys[name])}' for name in chosen) + "}"


common = objects([*METRICS[:3], "recorded_at", "seq", "boot_id"])
any_object = objects(list(keys))
payloads = (
    common
    | any_object
    | st.lists(common, max_size=4).map(lambda parts: "[" + ",".join(parts) + "]")
    | st.lists(any_object | st.just("5"), max_size=4).map(lambda parts: " [ " + " , ".join(parts) + "] ")
)


def make_intake(metrics: IngestMetrics) -> tuple[Intake, Registry]:
    registry = Registry()
    registry.load([DeviceRow(1, "press-1", timezone="Europe/Berlin"), DeviceRow(2, "old", retired=True)])
    options = IngestSettings(source=SOURCES)
    return Intake(options, RetentionSettings(), registry, Routes("factory", SOURCES), metrics), registry


def deliver(intake: Intake, number: int, payload: bytes, topic: str = TOPIC, kind: str | None = None, **flags: Any) -> None:
    packet = PublishPacket(topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=number + 1, content_type=kind, **flags)
    intake.take(Deliveries([packet], NOW + timedelta(milliseconds=number), NOWHERE))


def rows(batch: Batch) -> dict[str, Any]:
    """Everything of a batch that reaches the database."""
    streams = {key: (stream.last, stream.missing) for key, stream in batch.streams.items()}
    return {
        "fresh": batch.fresh,
        "rest": batch.rest,
        "refused": batch.refused.kept,
        "floods": batch.refused.floods,
        "duplicates": batch.duplicates,
        "latest": batch.latest,
        "streams": streams,
        "flagged": {device.id: device.clock for device in batch.flagged},
    }


def total(registry: CollectorRegistry, name: str) -> float:
    return registry.get_sample_value(f"{name}_total") or 0.0


@quick
@given(st.binary(max_size=300), kinds, st.sampled_from(LAYOUTS))
@example(b"[NaN,\xff]", None, LAYOUTS[0])
@example(b"{" * 5000, None, LAYOUTS[0])
def test_no_bytes_raise(raw: bytes, kind: str | None, layout: Layout) -> None:
    found = decoded(raw, kind, layout=layout)
    assert found.samples or found.rejected


@quick
@given(json_values, st.booleans(), st.sampled_from(LAYOUTS))
@example({"metrics": []}, False, LAYOUTS[1])
def test_no_value_raises(value: Any, packed: bool, layout: Layout) -> None:
    try:
        raw = msgspec.msgpack.encode(value) if packed else json.dumps(value).encode()
    except (OverflowError, UnicodeEncodeError):  # MessagePack has neither such integers nor surrogates
        raw = json.dumps(value).encode()
    found = decoded(raw, layout=layout)
    assert found.samples or found.rejected
    for rejected in found.rejected:
        assert "\0" not in rejected.detail
        rejected.detail.encode()


def both_ways(messages: list[str], kind: str | None = None) -> list[Any]:
    """Returns what the intake makes of the messages: as it does it, and with every message forced the long way."""
    found = []
    for always_long in (False, True):
        registry = CollectorRegistry()
        intake, _ = make_intake(IngestMetrics(registry))
        deliver(intake, 0, b'{"oil_level": 1}')
        for number, message in enumerate(messages, start=1):
            if always_long:
                intake.forget_routes()
            deliver(intake, number, message.encode(), kind=kind)
        (batch,) = intake.waiting
        names = ("readings_received", "sequence_missing", "sequence_filled")
        found.append((rows(batch), batch.readings, [total(registry, f"factoryd_ingest_{name}") for name in names]))
    return found


@quick
@given(st.lists(payloads, min_size=1, max_size=6), kinds)
def test_both_ways_agree(messages: list[str], kind: str | None) -> None:
    short, long = both_ways(messages, kind)
    assert short == long


@pytest.mark.parametrize("moment", [*MOMENTS.split(), '"2026-11-22 09:59:58z"'])
def test_both_ways_agree_on_every_time(moment: str) -> None:
    short, long = both_ways(
        [f'{{"temperature":1,"recorded_at":{moment}}}', f'[{{"rpm":1,"recorded_at":{moment}}},{{"rpm":2}}]']
    )
    assert short == long


@pytest.mark.parametrize("number", [*NUMBERS.split(), "9" * 400])
def test_both_ways_agree_on_every_number(number: str) -> None:
    short, long = both_ways([f'{{"temperature":{number}}}', f'[{{"rpm":1}},{{"rpm":{number},"seq":{number},"boot_id":"a"}}]'])
    assert short == long


@quick
@given(st.lists(st.tuples(payloads, st.sampled_from(TOPICS), st.booleans()), min_size=1, max_size=6), st.booleans())
def test_every_reading_is_accounted_for_once(messages: list[tuple[str, str, bool]], known: bool) -> None:
    registry = CollectorRegistry()
    intake, devices = make_intake(IngestMetrics(registry))
    for number, (message, topic, _) in enumerate(messages):
        deliver(intake, number, message.encode(), topic)
    for number, (message, topic, again) in enumerate(messages):
        if again:
            deliver(intake, 10 + number, message.encode(), topic, duplicate=True)
    (batch,) = intake.waiting
    assert total(registry, "factoryd_ingest_readings_received") == batch.readings
    if known:
        devices.load([DeviceRow(3, "stranger")])
    intake.retake_strangers(batch)
    assert not batch.strangers
    assert total(registry, "factoryd_ingest_readings_received") == batch.readings
    assert batch.readings == len(batch.fresh) + len(batch.rest) + len(batch.refused.kept) + batch.duplicates
    assert batch.readings >= len(messages)
    assert len(batch.fresh_origins) == len(batch.fresh)
    assert len(batch.rest_origins) == len(batch.rest)


@quick
@given(st.lists(any_object, min_size=1, max_size=5))
def test_each_element_of_an_array_becomes_one_reading(parts: list[str]) -> None:
    registry = CollectorRegistry()
    intake, _ = make_intake(IngestMetrics(registry))
    deliver(intake, 0, b"[" + ",".join(parts).encode() + b"]")
    (batch,) = intake.waiting
    whole = [row for row in batch.refused.kept if row.payload.startswith(b"[")]
    assert batch.readings == (1 if whole else len(parts))


@quick
@given(st.lists(common, min_size=1, max_size=8))
def test_fresh_rows_rise_and_rest_rows_do_not_exceed_them(messages: list[str]) -> None:
    intake, registry = make_intake(IngestMetrics(CollectorRegistry()))
    for number, message in enumerate(messages):
        deliver(intake, number, message.encode())
    (batch,) = intake.waiting
    times = [row.recorded_at for row in batch.fresh]
    assert times == sorted(set(times))
    newest = registry.by_id[1].newest
    assert all(row.recorded_at <= newest for row in batch.rest)
    assert not times or batch.latest[1].recorded_at == times[-1] == newest
