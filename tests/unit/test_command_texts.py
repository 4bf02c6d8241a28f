"""What people write and read at the command line, as far as it needs no server."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from config.settings import MqttSettings
from factoryd.__main__ import app
from factoryd.commands.device_import import read_devices
from factoryd.commands.durations import read_duration, read_moment
from factoryd.commands.payload_text import payload_text
from factoryd.commands.simulate import planned_fault
from factoryd.commands.tables import plain, shown
from factoryd.exit_codes import ExitCode, cause_of, exit_code_of
from mqtt.check import Finding, Grade, Seen, judge, version_of
from mqtt.receiver import BrokerUnavailable
from simulator.faults import Fault
from storage.migrate import SchemaOutdated
from storage.refusals import InvalidInput, NotFound

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BrokerUnavailable("x"), ExitCode.UNAVAILABLE),
        (SchemaOutdated("x"), ExitCode.FAILED),
        (NotFound("x"), ExitCode.FAILED),
        (InvalidInput("x"), ExitCode.USAGE),
        (PermissionError("x"), ExitCode.FAILED),
        (ExceptionGroup("group", [ExceptionGroup("inner", [NotFound("x")])]), ExitCode.FAILED),
        (RuntimeError("a mistake of ours"), None),
    ],
)
def test_exit_codes(error: Exception, code: ExitCode | None) -> None:
    assert exit_code_of(cause_of(error)) is code


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2W", 1_209_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert read_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20T10:00+02:00", datetime(2026, 11, 20, 8, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert read_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "0001-01-01T00:00+14:00"])
def test_bad_moments(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_moment(text, NOW)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b'{"a": 1}', ("text", '{"a": 1}')), (b"\x00\x01\x02\x03\x04", ("hex", "00010203 04")), (b"\x1b[2J", ("hex", "1b5b324a"))],
)
def test_payloads_for_eyes(payload: bytes, expected: tuple[str, str]) -> None:
    assert payload_text(payload) == expected


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "yes"),
        (NOW, "2026-11-22 12:00:00Z"),
        (2.50, "2.5"),
        ({"a": NOW}, '{"a": "2026-11-22T12:00:00Z"}'),
        ("a\nb\x1b", "a\\x0ab\\x1b"),
    ],
)
def test_cells(value: object, cell: str) -> None:
    assert shown(value) == cell


def test_json_values() -> None:
    assert json.dumps([NOW, b"\x01"], default=plain) == '["2026-11-22T12:00:00Z", "01"]'


def test_a_fault_on_the_command_line() -> None:
    planned = planned_fault("cnc-01=bearing-wear@30")
    assert (planned.device, planned.fault, planned.after_s) == ("cnc-01", Fault.BEARING_WEAR, 30.0)
    assert planned_fault("cnc-01=nan").after_s == 0.0


def test_quoted_line_breaks_in_a_csv_keep_the_line_numbers() -> None:
    lines, problems = read_devices(["device_id,metadata\n", 'a,"{\n', '}"\n', "b/,\n"])
    assert [(line.number, line.device, line.fields) for line in lines] == [(3, "a", {"metadata": {}})]
    assert [problem.number for problem in problems] == [4]


@pytest.mark.parametrize(
    ("text", "version"),
    [("mosquitto version 2.0.11", (2, 0, 11)), ("mosquitto version 2.1.2-rc", (2, 1, 2)), ("EMQX 5", None), ("", None)],
)
def test_broker_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert version_of(text) == version


def findings(connack: dict[str, Any], version: str, *, strangers: bool = False, dropped: str = "0") -> dict[str, Finding]:
    settings = MqttSettings.model_validate({"url": "mqtt://factoryd:x@broker.example:1883"})
    values = {"$SYS/broker/version": version, "$SYS/broker/publish/messages/dropped": dropped}
    return {finding.subject: finding for finding in judge(settings, Seen(connack, values, strangers))}


def test_an_old_and_open_broker_is_told_off() -> None:
    connack = {
        "ReceiveMaximum": 20,
        "MaximumPacketSize": 1000,
        "MaximumQoS": 0,
        "RetainAvailable": 0,
        "AssignedClientIdentifier": "x",
    }
    found = findings(connack, "mosquitto version 2.0.11", strangers=True, dropped="12")
    assert "stall" in found["version"].text
    for subject in ("max_qos", "retain_available", "allow_anonymous", "client id"):
        assert found[subject].grade is Grade.PROBLEM
    for subject in ("version", "max_inflight_messages", "max_packet_size", "messages dropped", "tls"):
        assert found[subject].grade is Grade.WARNING


def test_a_good_broker_is_good() -> None:
    found = findings({"ReceiveMaximum": 1000, "MaximumPacketSize": 1_048_576}, "mosquitto version 2.1.2")
    assert {found[name].grade for name in ("version", "max_inflight_messages", "max_packet_size", "allow_anonymous")} == {
        Grade.GOOD
    }
    assert found["autosave_interval"].grade is Grade.UNSEEN


CONFIG = """
[[ingest.source]]
name = "tasmota"
filter = "tele/{device}/SENSOR"
rename = {AM2301_Temperature = "temperature"}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "factoryd.toml"
    path.write_text(CONFIG)
    return path


def decode(config: Path, payload: str | bytes, *options: str) -> tuple[int, Any, str]:
    result = CliRunner().invoke(
        app, ["--config", str(config), "device", "decode", "-o", "json", *options], payload, catch_exceptions=False
    )
    return result.exit_code, json.loads(result.stdout or "null"), result.stderr


def test_decode_explains_each_reading(config: Path) -> None:
    payload = (
        '[{"ts": 1895341600123, "temperature": 71.2, "seq": 4}, {"temperature": "hot"}, {"rpm": 5, "oil": 0.5, "note": "x"}]'
    )
    code, (first, third, second), notes = decode(config, payload, "--topic", "factory/devices/p-1/telemetry")
    assert code == 1
    assert (first["device"], first["place"], first["time"], first["seq"]) == ("p-1", 0, "time of receipt", 4)
    assert first["columns"] == {"temperature": 71.2}
    assert (third["place"], third["columns"], third["extra"]) == (2, {"rpm": 5.0}, {"oil": 0.5})
    assert (second["result"], second["reason"], second["values"]) == ("rejected", "bad_type", '{"temperature": "hot"}')
    assert "1 values are no numbers" in notes
    assert "ahead of ours" in notes


def test_decode_knows_the_sources(config: Path) -> None:
    payload = '{"Time": "2026-11-22T10:00:00", "AM2301": {"Temperature": 21.5}}'
    code, (row,), _ = decode(config, payload, "--topic", "tele/plug-7/SENSOR")
    assert (code, row["device"], row["columns"]) == (0, "plug-7", {"temperature": 21.5})
    code, (row,), _ = decode(config, payload, "--source", "tasmota", "--device", "d")
    assert (code, row["device"], row["columns"]) == (0, "d", {"temperature": 21.5})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--topic", "other/x"), "is neither factory/devices/ID/telemetry nor of an [[ingest.source]]"),
        (("--topic", "factory/devices/a/telemetry", "--device", "b"), "names device a, not b"),
        (("--source", "zigbee"), "no [[ingest.source]] is named 'zigbee' (tasmota)"),
        (("--timezone", "Mars"), "timezone: 'Mars' is not known"),
    ],
)
def test_decode_explains_mistakes(config: Path, options: tuple[str, ...], text: str) -> None:
    code, _, err = decode(config, "{}", *options)
    assert code == 2
    assert text in err


def test_local_times_need_a_zone(config: Path) -> None:
    local = json.dumps({"recorded_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "temperature": 1})
    code, (row,), _ = decode(config, local, "--device", "d")
    assert (code, row["reason"]) == (1, "naive_timestamp")
    code, (row,), _ = decode(config, local, "--device", "d", "--timezone", "UTC")
    assert (code, row["result"]) == (0, "reading")
