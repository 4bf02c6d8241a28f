"""Recipes of docs/mqtt.md for devices that speak another layout: Tasmota, Telegraf, ThingsBoard. Payloads as they send them."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from config.settings import IngestSettings, SourceSettings
from ingest.layouts import layout_of
from ingest.reading import Reason
from ingest.routes import Route, Routes
from tests.unit.messages import decoded, outcome

AT = datetime(2026, 11, 22, 9, 59, 58, tzinfo=UTC)
SECONDS = 1795341598

TASMOTA = SourceSettings(
    name="tasmota",
    filter="tele/{device}/SENSOR",
    time_field="Time",
    timezone="Europe/Berlin",
    rename={
        "AM2301_Temperature": "temperature",
        "AM2301_Humidity": "humidity",
        "BME280_Temperature": "temperature",
        "BME280_Humidity": "humidity",
        "BME280_Pressure": "pressure",
        "ENERGY_Power": "power_consumption",
    },
    scale={"pressure": 0.1},
)
TELEGRAF = SourceSettings(name="telegraf", filter="telegraf/{device}/+", format="telegraf", rename={"temp": "temperature"})
TAGGED = SourceSettings(name="tagged", filter="telegraf", format="telegraf", device_field="machine")
THINGSBOARD = SourceSettings(name="thingsboard", filter="v1/{device}/telemetry", format="thingsboard")
FIELD = SourceSettings(name="field", filter="plant/#", device_field="serial")


def read(source: SourceSettings, payload: Any, device: str = "press-1") -> tuple[list[dict[str, Any]], list[Reason]]:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return outcome(decoded(raw, device=device, layout=layout_of(source)))


def test_tasmota_climate() -> None:
    payload = b'{"Time":"2026-11-22T10:59:58","AM2301":{"Temperature":21.8,"Humidity":55.0,"DewPoint":12.4},"TempUnit":"C"}'
    expected = {"temperature": 21.8, "humidity": 55.0, "AM2301_DewPoint": 12.4, "recorded_at": AT}
    assert read(TASMOTA, payload) == ([expected], [])


def test_tasmota_pressure_is_scaled() -> None:
    payload = (
        b'{"Time":"2026-11-22T10:59:58","BME280":{"Temperature":21.8,"Humidity":55.0,"Pressure":1013.0},'
        b'"PressureUnit":"hPa","TempUnit":"C"}'
    )
    expected = {"temperature": 21.8, "humidity": 55.0, "pressure": 1013.0 * 0.1, "recorded_at": AT}
    assert read(TASMOTA, payload) == ([expected], [])


def test_tasmota_energy() -> None:
    payload = (
        b'{"Time":"2026-11-22T10:59:58","ENERGY":{"TotalStartTime":"2025-01-01T00:00:00","Total":3.185,"Yesterday":0.5,'
        b'"Today":0.25,"Period":2,"Power":15,"ApparentPower":22,"ReactivePower":16,"Factor":0.68,"Voltage":231,"Current":0.095}}'
    )
    values = {"Total": 3.185, "Yesterday": 0.5, "Today": 0.25, "Period": 2, "ApparentPower": 22, "ReactivePower": 16}
    values |= {"Factor": 0.68, "Voltage": 231, "Current": 0.095}
    extra = {f"ENERGY_{name}": value for name, value in values.items()}
    assert read(TASMOTA, payload) == ([{"power_consumption": 15.0, "recorded_at": AT, **extra}], [])


def test_tasmota_without_its_sensor() -> None:
    assert read(TASMOTA, b'{"Time":"2026-11-22T10:59:58","AM2301":{"Temperature":null},"TempUnit":"C"}') == (
        [],
        [Reason.NO_METRICS],
    )


def test_two_sensors_for_one_metric() -> None:
    payload = {"Time": "2026-11-22T10:59:58", "AM2301": {"Temperature": 1}, "BME280": {"Temperature": 2}}
    assert read(TASMOTA, payload) == ([], [Reason.AMBIGUOUS_METRIC])


def test_telegraf_single() -> None:
    payload = {
        "fields": {"temp": 21.5, "usage_idle": 98.2, "uptime": 12345, "state": "ok"},
        "name": "env",
        "tags": {"host": "gw-1", "rack": "3"},
        "timestamp": SECONDS,
    }
    assert read(TELEGRAF, payload) == ([{"temperature": 21.5, "usage_idle": 98.2, "uptime": 12345, "recorded_at": AT}], [])


def test_telegraf_batch_with_devices_in_a_tag() -> None:
    def metric(machine: str | None, **fields: object) -> dict[str, object]:
        tags = {"machine": machine} if machine else {}
        return {"fields": fields, "name": "opcua", "tags": tags, "timestamp": SECONDS * 10**9}

    payload = {"metrics": [metric("press-1", rpm=1), metric("lathe:2", rpm=2), metric(None, rpm=3), metric("x", rpm="4")]}
    expected = [
        {"rpm": 1.0, "recorded_at": AT, "device": "press-1"},
        {"rpm": 2.0, "recorded_at": AT, "device": "lathe:2"},
        {"rpm": 3.0, "recorded_at": AT},
    ]
    assert read(TAGGED, payload, device="") == (expected, [Reason.BAD_TYPE])


TELEGRAF_ODD: dict[str, tuple[object, list[Reason]]] = {
    "empty batch": ({"metrics": []}, [Reason.NO_METRICS]),
    "batch of other things": ({"metrics": [1, None]}, [Reason.WRONG_SHAPE] * 2),
    "metrics is no list": ({"metrics": 5}, [Reason.WRONG_SHAPE]),
    "no fields": ({"name": "x", "tags": {}, "timestamp": SECONDS}, [Reason.NO_METRICS]),
    "empty fields": ({"name": "x", "fields": {}, "timestamp": SECONDS}, [Reason.NO_METRICS]),
    "1001 metrics": ({"metrics": [{"fields": {"a": 1}}] * 1001}, [Reason.TOO_MANY_READINGS]),
    "two full batches in an array": (
        [{"metrics": [{"fields": {"a": 1}}] * 600}, {"metrics": [{"fields": {"a": 1}}] * 600}],
        [Reason.TOO_MANY_READINGS],
    ),
}


@pytest.mark.parametrize("name", TELEGRAF_ODD)
def test_telegraf_oddities(name: str) -> None:
    payload, reasons = TELEGRAF_ODD[name]
    assert read(TELEGRAF, payload) == ([], reasons)


def test_telegraf_thousand() -> None:
    samples, reasons = read(TELEGRAF, {"metrics": [{"fields": {"a": n}} for n in range(1000)]})
    assert ([sample["a"] for sample in samples], reasons) == (list(range(1000)), [])


def test_thingsboard() -> None:
    one = {"ts": SECONDS * 1000, "values": {"temperature": 71.2, "humidity": 40, "door": True, "firmware": "1.0"}}
    two = {"ts": SECONDS * 1000 - 1000, "values": {"temperature": 71.1}}
    first = {"temperature": 71.2, "humidity": 40.0, "door": True, "recorded_at": AT}
    assert read(THINGSBOARD, one) == ([first], [])
    second = {"temperature": 71.1, "recorded_at": AT.replace(second=57)}
    assert read(THINGSBOARD, [one, two]) == ([first, second], [])
    assert read(THINGSBOARD, {"temperature": 42}) == ([{"temperature": 42.0}], [])
    assert read(THINGSBOARD, [{"temperature": 42}, {"humidity": 1}]) == ([{"temperature": 42.0}, {"humidity": 1.0}], [])


def test_a_device_field() -> None:
    assert read(FIELD, {"serial": "press-1", "rpm": 5}, device="") == ([{"rpm": 5.0, "device": "press-1"}], [])
    assert read(FIELD, msgspec.msgpack.encode({"serial": "a", "rpm": 5}), device="") == ([{"rpm": 5.0, "device": "a"}], [])
    assert read(FIELD, {"serial": 5, "rpm": 5}, device="") == ([{"rpm": 5.0}], [])


def test_a_scale_beyond_a_double() -> None:
    source = SourceSettings(name="s", filter="s/{device}", scale={"rpm": 1e300})
    assert read(source, [{"rpm": 1e300}, {"rpm": 1}]) == ([{"rpm": 1e300}], [Reason.OUT_OF_RANGE])


def test_routes() -> None:
    sources = IngestSettings(source=(TASMOTA, TELEGRAF, TAGGED, FIELD)).source
    routes = Routes("acme/hall-2", sources)
    assert routes.filters == ("acme/hall-2/devices/+/telemetry", "tele/+/SENSOR", "telegraf/+/+", "telegraf", "plant/#")

    def found(topic: str) -> tuple[str, str] | None:
        route: Route | None = routes.find(topic)
        return (route.device, route.layout.name) if route else None

    assert found("acme/hall-2/devices/press-1/telemetry") == ("press-1", "native")
    assert found("tele/plug-3/SENSOR") == ("plug-3", "tasmota")
    assert found("telegraf/gw-1/cpu") == ("gw-1", "telegraf")
    assert found("telegraf") == ("", "tagged")
    assert found("plant") == ("", "field")
    assert found("plant/a/b") == ("", "field")
    assert found("acme/hall-2/devices/press-1/status") is None
    assert found("other/devices/press-1/telemetry") is None
