"""factoryd device watch, broker check, simulate: against a real broker, database and daemon."""

import asyncio
import csv
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt
import pytest

from config.loading import load_settings
from config.settings import Settings
from factoryd.commands.device_watch import watch_device
from factoryd.commands.simulated_accounts import broker_of
from factoryd.daemon import Daemon
from mqtt.access import Account
from mqtt.check import Grade, judge, look
from storage.credentials import load_accounts
from storage.partitions import ensure_partitions
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.services import Broker

DEVICE = "press-01"


@pytest.fixture
def settings(database: Database, mosquitto: Broker, mqtt_root: str) -> Settings:
    ensure_partitions(database.owner, 1, 1, datetime.now(UTC).date())
    overrides = {
        "database": {"url": database.daemon},
        "mqtt": {"url": mosquitto.tools_url, "root": mqtt_root},
        "http": {"port": 0},
        "log": {"level": "error"},
    }
    return load_settings(overrides=overrides)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """The daemon in this process, subscribed."""
    daemon, stop = Daemon(settings), asyncio.Event()
    task = asyncio.create_task(daemon.run(stop))
    async with asyncio.timeout(20):
        while not daemon.health.readiness().ok:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.02)
    try:
        yield daemon
    finally:
        stop.set()
        await task


@asynccontextmanager
async def publisher(settings: Settings) -> AsyncIterator[aiomqtt.Client]:
    assert settings.mqtt.url is not None
    url = urlsplit(settings.mqtt.url.get_secret_value())
    async with aiomqtt.Client(
        url.hostname or "", url.port or 0, username=unquote(url.username or ""), password=unquote(url.password or "")
    ) as client:
        yield client


class Watch:
    """`device watch`, and what it says."""

    def __init__(self, settings: Settings, device: str = DEVICE) -> None:
        self.rows: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.notes: list[str] = []
        self.watching = asyncio.Event()
        self._settings = settings
        self._device = device

    async def run(self) -> None:
        await watch_device(self._settings, self._device, self.rows.put_nowait, None, self._note)

    async def results(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            return [(await self.rows.get())["result"] for _ in range(count)]

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.watching.set()


async def test_watch_tells_what_became_of_each_reading(settings: Settings, database: Database) -> None:
    rows(database.owner, f"INSERT INTO devices (device_id, name, type, location) VALUES ('{DEVICE}', '', '', '')")
    topic, at = f"{settings.mqtt.root}/devices/{DEVICE}/telemetry", datetime.now(UTC).replace(microsecond=123000)
    before, stamp = (at - timedelta(minutes=5)).isoformat(), at.isoformat()
    watch = Watch(settings)
    async with running(settings), publisher(settings) as client:
        await client.publish(topic, json.dumps({"recorded_at": before, "temperature": 1.5}), qos=1)
        while not rows(database.daemon, "SELECT 1 FROM sensor_readings"):
            await asyncio.sleep(0.02)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await watch.watching.wait()
            told = []
            for message in (
                {"recorded_at": stamp, "temperature": 20.5},
                {"recorded_at": stamp, "temperature": 20.5},
                {"recorded_at": stamp, "rpm": 900, "oil": 0.5},
                {"recorded_at": stamp, "rpm": 901},
                {"recorded_at": before, "temperature": 1.5},
                {"recorded_at": before, "rpm": 7},
                {"temperature": 3},
                {"temperature": 3},
                [{"temperature": "hot"}, {"temperature": 4}],
                {"seq": 1, "boot_id": "b", "temperature": 5},
                {"seq": 1, "boot_id": "b", "temperature": 5},
            ):
                await client.publish(topic, json.dumps(message), qos=1)
                told.append(await watch.results(len(message) if isinstance(message, list) else 1))
            task.cancel()
    assert told == [
        ["stored"],
        ["duplicate"],
        ["merged"],
        ["rejected"],
        ["duplicate"],
        ["merged"],
        ["stored"],
        ["stored"],
        ["stored", "rejected"],
        ["stored"],
        ["duplicate"],
    ]


async def test_watch_sees_a_device_that_is_not_registered_yet(settings: Settings) -> None:
    watch = Watch(settings, "stranger")
    async with running(settings), publisher(settings) as client, asyncio.TaskGroup() as group:
        task = group.create_task(watch.run())
        await watch.watching.wait()
        await client.publish(f"{settings.mqtt.root}/devices/stranger/telemetry", '{"temperature": 1}', qos=1)
        row = await asyncio.wait_for(watch.rows.get(), 20)
        task.cancel()
    assert row["result"] == "rejected"
    assert "unknown_device" in row["detail"]


async def test_watch_says_when_nobody_stores(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factoryd.commands.device_watch.PATIENCE_S", 0.1)
    watch = Watch(settings)
    async with publisher(settings) as client, asyncio.TaskGroup() as group:
        task = group.create_task(watch.run())
        await watch.watching.wait()
        await client.publish(f"{settings.mqtt.root}/devices/{DEVICE}/telemetry", '{"temperature": 1}', qos=1)
        row = await asyncio.wait_for(watch.rows.get(), 20)
        task.cancel()
    assert row["result"] == "unseen"
    assert "is the daemon running?" in row["detail"]


async def test_broker_check_sees_what_a_client_can(settings: Settings) -> None:
    findings = {finding.subject: finding for finding in judge(settings.mqtt, await look(settings.mqtt))}
    assert "mosquitto version" in findings["version"].text
    assert (findings["max_inflight_messages"].grade, findings["max_inflight_messages"].text) == (Grade.GOOD, "1000")
    assert findings["max_packet_size"].text == "1048576"
    assert findings["allow_anonymous"].grade is Grade.GOOD
    assert findings["max_queued_messages"].grade is Grade.UNSEEN
    assert Grade.PROBLEM not in {finding.grade for finding in findings.values()}


def test_broker_check_prints_its_findings(database: Database, mosquitto: Broker) -> None:
    answer = CommandLine(database.daemon, {"FACTORYD_MQTT__URL": mosquitto.tools_url})("broker", "check", "-o", "json")
    assert answer.code == 0
    assert {"grade", "subject", "text"} == set(answer.json()[0])


def test_broker_check_without_a_broker(database: Database) -> None:
    answer = CommandLine(database.daemon, {"FACTORYD_MQTT__URL": "mqtt://127.0.0.1:1"})("broker", "check")
    assert (answer.code, answer.err.count("\n")) == (69, 1)
    assert CommandLine(database.daemon)("broker", "check").code == 78


def test_account_files_are_written_from_the_database(database: Database, tmp_path: Path) -> None:
    factoryd = CommandLine(database.daemon, {"FACTORYD_MQTT__URL": "mqtt://factoryd:secret@127.0.0.1:1"})
    factoryd.good("device", "add", "gw")
    factoryd.good("device", "add", "plc", "--via", "gw")
    factoryd.good("device", "credentials", "gw")
    passwords, access = tmp_path / "passwd", tmp_path / "acl"
    factoryd.good("broker", "accounts", "--passwords", str(passwords), "--access", str(access))
    assert [line.partition(":")[0] for line in passwords.read_text().splitlines()] == ["factoryd", "gw"]
    assert "user gw\ntopic write factory/devices/plc/telemetry" in access.read_text()
    assert passwords.stat().st_mode & 0o777 == 0o600


def accounts_of(settings: Settings) -> list[Account]:
    return [Account(*row) for row in load_accounts(settings.database)]


def test_simulate_registers_its_devices_and_plays(
    settings: Settings, database: Database, mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factoryd = CommandLine(database.daemon, {"MQTT_DEVICES_URL": f"mqtt://127.0.0.1:{mosquitto.devices_port}"})
    monkeypatch.setattr("factoryd.commands.simulate.broker_of", _letting_in(settings, mosquitto))
    ledger = tmp_path / "ledger"
    arguments = ("--machines", "2", "--interval", "0.1", "--duration", "2", "--prefix", "sim.", "--ledger", str(ledger))
    out = factoryd.good("simulate", "--register", *arguments)
    assert "0 connected" in out
    assert "refused" not in out
    assert {json.loads(line)[0] for line in ledger.read_text().splitlines()} == {"sim.press-01", "sim.cnc-01"}
    listed = factoryd("device", "list", "-o", "json").json()
    assert [(d["device_id"], d["has_credentials"], d["metadata"]) for d in listed] == [
        ("sim.cnc-01", True, {"simulated": True}),
        ("sim.press-01", True, {"simulated": True}),
    ]


def _letting_in(settings: Settings, mosquitto: Broker) -> Any:
    """The accounts are in the database by the time a broker is chosen: hand them on, as the daemon does for its own broker."""

    def choose(*arguments: Any) -> Any:
        mosquitto.set_accounts(accounts_of(settings))
        return broker_of(*arguments)

    return choose


def test_simulate_never_touches_a_real_device(database: Database) -> None:
    factoryd = CommandLine(database.daemon, {"FACTORYD_MQTT__URL": "mqtt://127.0.0.1:1"})
    factoryd.good("device", "add", "press-01")
    answer = factoryd("simulate", "--register", "--machines", "1")
    assert answer.code == 1
    assert "device press-01 is registered and not a simulated one" in answer.err


def test_a_recording_is_replayed(database: Database, mosquitto: Broker, mqtt_root: str, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    with file.open("w", newline="") as text:
        csv.writer(text).writerows([["when", "Temp"], ["2026-11-20 10:00", "20.5"], ["2026-11-20 10:01", "x"]])
    factoryd = CommandLine(database.daemon, {"FACTORYD_MQTT__ROOT": mqtt_root, "MQTT_TOOLS_URL": mosquitto.tools_url})
    arguments = ("--map", "Temp=temperature", "--time-column", "when", "--timezone", "Europe/Berlin", "--speed", "0")
    answer = factoryd("simulate", "--replay", str(file), "--device", "log-1", *arguments)
    assert answer.code == 0
    assert answer.out == "1 rows of 1 devices, 1 acknowledged, 1 bad\n"
    assert "line 3: " in answer.err
    wrong = factoryd("simulate", "--replay", str(file), "--device", "log-1", "--map", "Nope=temperature")
    assert wrong.code == 1
    assert "column 'Nope' is not in the recording" in wrong.err


@pytest.mark.parametrize("text", ["press-01", "press-01=melting", "press-01=nan@soon"])
def test_a_bad_fault_is_explained(database: Database, text: str) -> None:
    answer = CommandLine(database.daemon, {"FACTORYD_MQTT__URL": "mqtt://127.0.0.1:1"})("simulate", "--fault", text)
    assert answer.code == 2
    assert "write DEVICE=FAULT[@SECONDS]" in answer.err
