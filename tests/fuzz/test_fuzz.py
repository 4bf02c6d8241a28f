"""Hostile bytes by the hundred thousand (`make fuzz`): recorded messages, mutated; nothing may escape as an exception.

The same properties run with few examples in tests/unit (test_decoding_properties, test_session_hostile).
"""

import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import cast

import mqtt5
import pytest
from prometheus_client import CollectorRegistry

from config.settings import IngestSettings, SourceSettings
from config.storage_settings import RetentionSettings
from ingest.batch import origin_bytes
from ingest.clocks import TimeWindow
from ingest.decoding import decode
from ingest.devices import DeviceRow, Registry
from ingest.intake import Intake
from ingest.layouts import NATIVE, Layout, layout_of
from ingest.metrics import IngestMetrics
from ingest.reading import Reason
from ingest.routes import Routes
from mqtt.connection import Connection, Deliveries
from mqtt.session import ProtocolError, Session, SessionOptions, Subscription, stored_publish

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", str(time.time_ns() % 1_000_000)))

PAYLOADS = [
    b'{"recorded_at":"2026-11-22T10:00:00.123Z","temperature":71.2,"humidity":40.1,"rpm":1480,"seq":7,"boot_id":"b1"}',
    b'[{"ts":1795341600123,"temperature":71.2},{"ts":1795341601123,"oil_level":0.7,"door":{"open":true}}]',
    b'{"ts":1795341600123,"values":{"temperature":71.2,"deep":{"er":{"est":1}}}}',
    b'{"Time":"2026-11-22T10:00:00","AM2301":{"Temperature":21.3,"Humidity":55},"TempUnit":"C"}',
    b'{"metrics":[{"name":"m","tags":{"host":"press-1"},"fields":{"temperature":1.5},"timestamp":1795341600}]}',
    b"[NaN, Infinity, -1e999, {}, [], null, true]",
    b"\x83\xa2ts\xcf\x00\x00\x01\xa2\x02\x03\x04\x05\xa4temp\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa3rpm\x01",
    b"[" * 200,
    b'{"a":' * 50,
]
SOURCES = [
    SourceSettings(name="tasmota", filter="tele/{device}/SENSOR", time_field="Time", timezone="Europe/Berlin"),
    SourceSettings(name="telegraf", filter="telegraf/#", format="telegraf", device_field="host"),
    SourceSettings(name="things", filter="v1/{device}/telemetry", format="thingsboard", scale={"temperature": 1e300}),
]
LAYOUTS: list[Layout] = [NATIVE, *map(layout_of, SOURCES)]
TOPICS = {
    "native": "factory/devices/press-1/telemetry",
    "tasmota": "tele/press-1/SENSOR",
    "telegraf": "telegraf/hall",
    "things": "v1/press-1/telemetry",
}
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"null",
    b"-0",
    b"9" * 400,
    b"\xff",
]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Returns a neighbour: bytes changed, cut, doubled, or tokens put in."""
    buffer = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(buffer) + 1)
        match chance.randrange(4):
            case 0 if buffer:
                buffer[place % len(buffer)] = chance.randrange(256)
            case 1:
                del buffer[place : place + chance.randrange(1, 9)]
            case 2:
                buffer[place:place] = chance.choice(TOKENS)
            case _:
                buffer[place:place] = buffer[chance.randrange(len(buffer) + 1) :][:40]
    return bytes(buffer)


def _intake(layout: Layout) -> Intake:
    """Returns an intake that knows one device, and takes every topic of this layout."""
    registry = Registry()
    registry.load([DeviceRow(1, "press-1")])
    sources = tuple(source for source in SOURCES if source.name == layout.name)
    metrics = IngestMetrics(CollectorRegistry())
    return Intake(IngestSettings(), RetentionSettings(), registry, Routes("factory", sources), metrics)


def _take(intake: Intake, chance: random.Random, layout: Layout, payload: bytes, now: datetime) -> None:
    """The same payload on its way into a batch: it is accounted for, and nothing was a fault of ours."""
    publish = stored_publish(TOPICS[layout.name], payload, None, chance.randrange(2))
    intake.take(Deliveries([publish], now, cast("Connection", None)))
    batch = intake.waiting[-1]
    batch.close()
    intake.retake_strangers(batch)
    assert batch.readings > 0, payload
    assert all(quarantined.reason is not Reason.REFUSED for quarantined in batch.refused.kept), payload
    assert (len(batch.fresh), len(batch.rest)) == (len(batch.fresh_origins), len(batch.rest_origins))
    for origin in (*batch.fresh_origins, *batch.rest_origins):
        assert origin_bytes(origin)[1], payload
    intake.waiting.clear()


def test_decoder() -> None:
    """Any payload, in any layout: samples or reasons, within a moment; and so into a batch."""
    chance, runs = random.Random(SEED), 0
    limits, now, intakes = IngestSettings(), datetime.now(UTC), {layout.name: _intake(layout) for layout in LAYOUTS}
    window = TimeWindow.around(now, timedelta(days=90), timedelta(minutes=5))
    ending = time.monotonic() + SECONDS
    print(f"\nseed {SEED}")
    while time.monotonic() < ending:
        payload = mutated(chance, chance.choice(PAYLOADS))
        layout = chance.choice(LAYOUTS)
        started = time.perf_counter()
        decoded = decode(payload, None, device="d", window=window, received_at=now, limits=limits, layout=layout)
        assert time.perf_counter() - started < 1.0, payload
        assert decoded.samples or decoded.rejected, payload
        assert all(isinstance(rejected.reason, Reason) for rejected in decoded.rejected)
        _take(intakes[layout.name], chance, layout, payload, now)
        runs += 1
    print(f"{runs} payloads")


# The codec reports invalid UTF-8 twice: as ValueError, which we translate, and as an exception nobody can catch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_session() -> None:
    """Any bytes from the broker, in any pieces: messages or ProtocolError."""
    chance, runs = random.Random(SEED), 0
    publish = mqtt5.PublishPacket("factory/devices/d/telemetry", PAYLOADS[0], qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=9)
    suback = mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE])
    ping, end = mqtt5.PingRespPacket().write(), mqtt5.DisconnectPacket().write()
    packets = [mqtt5.ConnAckPacket().write(), suback.write(), publish.write(), ping, publish.write(), end]
    recording = b"".join(packets)
    ending = time.monotonic() + SECONDS
    while time.monotonic() < ending:
        data = recording if chance.random() < 0.1 else mutated(chance, recording)
        session = Session(SessionOptions("c", (Subscription("a"),), max_packet_bytes=4096))
        session.connect()
        rest = b""
        try:
            while data:
                size = chance.randrange(1, len(data) + 1)
                rest, data = rest + data[:size], data[size:]
                _, used = session.feed(memoryview(rest))
                rest = rest[used:]
        except ProtocolError:
            pass
        runs += 1
    print(f"\n{runs} connections")
