"""The simulator against a real mosquitto: births and wills, outages, faults, refusals, recordings."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest

from simulator.connection import Broker, BrokerUnavailable, ConnectionRefused
from simulator.factory import Factory, PlannedFault, run_simulation
from simulator.faults import Fault
from simulator.ledger import Acknowledged
from simulator.outages import Outages
from simulator.recording import Layout, RecordingError
from simulator.replay import ReplayPlan, run_replay
from tests.integration.simulating import (
    CHILD,
    CNC,
    GATEWAY,
    PRESS,
    ROOT,
    Mosquitto,
    Observer,
    observing,
    plan_for,
    running,
    running_mosquitto,
)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path) as broker:
        yield broker


class TestFactory:
    async def test_machines_are_born_publish_and_leave(self, mosquitto: Mosquitto) -> None:
        ledger: list[Acknowledged] = []
        plan = plan_for(mosquitto, PRESS, CNC, GATEWAY, CHILD, ledger=ledger.append)
        async with observing(mosquitto) as observer:
            async with running(plan) as factory:
                await observer.until(lambda: all(len(observer.payloads(d.device)) >= 5 for d in plan.devices))
                assert factory.statistics.connected == 3
            await observer.until(lambda: all(observer.statuses(d.device)[-1:] == ["offline"] for d in plan.devices))
            assert all(observer.statuses(d.device) == ["online", "offline"] for d in plan.devices)
            by_device = {d.device: observer.readings(d.device) for d in (PRESS, GATEWAY, CHILD)}
            by_device["cnc-01"] = observer.readings("cnc-01", msgspec.msgpack.decode)
        for readings in by_device.values():
            assert [reading["seq"] for reading in readings] == list(range(1, len(readings) + 1))
        assert {"temperature", "pressure", "oil_level", "door_open"} <= set(by_device["press-01"][0])
        assert "rpm" in by_device["plc-01"][0]
        assert isinstance(by_device["cnc-01"][0]["recorded_at"], int)
        sent = {(device, r["boot_id"], r["seq"]) for device, readings in by_device.items() for r in readings}
        assert {entry[:3] for entry in ledger} == sent
        statistics = factory.statistics
        assert statistics.readings == statistics.readings_acknowledged == len(ledger)
        assert (statistics.connected, statistics.reconnects, statistics.refused, statistics.dropped) == (0, 0, 0, 0)

    async def test_the_birth_is_retained_and_pairs_with_its_will(self, mosquitto: Mosquitto) -> None:
        async with running(plan_for(mosquitto, PRESS)), observing(mosquitto) as first:
            await first.until(lambda: bool(first.payloads("press-01")))
            async with observing(mosquitto) as late:
                await late.until(lambda: bool(late.payloads("press-01", "status")))
                _, payload, retained = next(m for m in late.messages if m[0].endswith("/status"))
                birth = json.loads(payload)
                assert (retained, birth["status"], birth["version"]) == (True, "online", "1.4.2")

    async def test_an_abrupt_outage_publishes_the_will_and_ends_with_one_array(self, mosquitto: Mosquitto) -> None:
        async with observing(mosquitto) as observer, running(plan_for(mosquitto, PRESS)) as factory:
            await observer.until(lambda: len(observer.payloads("press-01")) >= 3)
            factory.cut("press-01", 0.5)
            await observer.until(lambda: observer.statuses("press-01")[:3] == ["online", "offline", "online"])
            before = len(observer.payloads("press-01"))
            await observer.until(lambda: len(observer.payloads("press-01")) >= before + 3)
            sessions = [json.loads(payload)["session"] for payload in observer.payloads("press-01", "status")]
            assert sessions[0] == sessions[1] != sessions[2]
            arrays = [items for payload in observer.payloads("press-01") if isinstance(items := json.loads(payload), list)]
            assert max(len(items) for items in arrays) >= 5
            assert factory.statistics.reconnects == 1
            sequence = observer.sequence("press-01")
            assert sequence == list(range(1, len(sequence) + 1))

    async def test_machines_go_away_by_themselves_and_lose_nothing(self, mosquitto: Mosquitto) -> None:
        outages = Outages(mean_interval_s=0.2, shortest_s=0.05, longest_s=0.1, abrupt_share=0.5)
        async with observing(mosquitto) as observer:
            async with running(plan_for(mosquitto, PRESS, outages=outages)) as factory:
                await observer.until(lambda: factory.statistics.reconnects >= 5)
            await observer.until(lambda: len(set(observer.sequence("press-01"))) == factory.statistics.readings)
            assert set(observer.sequence("press-01")) == set(range(1, factory.statistics.readings + 1))
            assert factory.statistics.dropped == 0

    async def test_a_killed_broker_costs_no_reading_made_meanwhile(self, mosquitto: Mosquitto) -> None:
        ledger: list[Acknowledged] = []
        async with running(plan_for(mosquitto, PRESS, ledger=ledger.append)) as factory:
            async with observing(mosquitto) as observer:
                await observer.until(lambda: len(observer.payloads("press-01")) >= 3)
                mosquitto.kill()
            mosquitto.start()
            async with observing(mosquitto) as observer:
                await observer.until(lambda: len(observer.payloads("press-01")) >= 3)
                assert observer.statuses("press-01") == ["online"]
            assert factory.statistics.reconnects == 1
        assert {entry.seq for entry in ledger} == set(range(1, factory.statistics.readings + 1))

    async def test_a_frozen_broker_is_left_and_every_reading_arrives_later(self, mosquitto: Mosquitto) -> None:
        plan = plan_for(mosquitto, PRESS)
        plan = replace(plan, broker=replace(plan.broker, timeout_s=0.3))
        async with running(plan) as factory, observing(mosquitto) as observer:
            await observer.until(lambda: len(observer.payloads("press-01")) >= 2)
            assert mosquitto.process is not None
            mosquitto.process.send_signal(signal.SIGSTOP)
            asyncio.get_running_loop().call_later(0.8, mosquitto.process.send_signal, signal.SIGCONT)
            await observer.until(lambda: factory.statistics.reconnects >= 1)
            count = len(observer.payloads("press-01"))
            await observer.until(lambda: len(observer.payloads("press-01")) >= count + 3)
            sequence = set(observer.sequence("press-01"))
        assert sequence == set(range(1, max(sequence) + 1))
        assert "did not acknowledge" in factory.statistics.last_error or "not reachable" in factory.statistics.last_error

    async def test_notices_of_rejected_telemetry_are_heard(self, mosquitto: Mosquitto) -> None:
        async with running(plan_for(mosquitto, GATEWAY, CHILD)) as factory, observing(mosquitto) as observer:
            await observer.until(lambda: bool(observer.payloads("plc-01")))
            async with aiomqtt.Client("127.0.0.1", mosquitto.port) as daemon:
                await daemon.publish(f"{ROOT}/devices/plc-01/rejected", b'{"reason":"bad"}', qos=1)
            await observer.until(lambda: factory.statistics.rejections == 1)

    async def test_cancelling_lets_the_broker_publish_the_will(self, mosquitto: Mosquitto) -> None:
        async with observing(mosquitto) as observer:
            simulation = asyncio.create_task(run_simulation(plan_for(mosquitto, PRESS)))
            await observer.until(lambda: bool(observer.payloads("press-01")))
            simulation.cancel()
            await observer.until(lambda: observer.statuses("press-01") == ["online", "offline"])
            with pytest.raises(asyncio.CancelledError):
                await simulation

    async def test_the_plans_duration_ends_it(self, mosquitto: Mosquitto) -> None:
        statistics = await run_simulation(plan_for(mosquitto, PRESS, duration_s=0.3))
        assert 3 <= statistics.readings == statistics.readings_acknowledged


class TestFaultsOnTheWire:
    async def test_faults_on_demand_and_healing(self, mosquitto: Mosquitto) -> None:
        ledger: list[Acknowledged] = []
        async with observing(mosquitto) as observer, running(plan_for(mosquitto, PRESS, ledger=ledger.append)) as factory:
            factory.inject("press-01", Fault.NAN, metric="pressure")
            await observer.until(lambda: any(b'"pressure":NaN' in payload.replace(b" ", b"") for payload in self.all(observer)))
            factory.heal("press-01")
            factory.inject("press-01", Fault.BAD_PAYLOAD)
            await observer.until(lambda: any(not payload.endswith((b"}", b"]")) for payload in self.all(observer)))
            factory.heal("press-01", Fault.BAD_PAYLOAD)
            factory.inject("press-01", Fault.SPIKE)
            await observer.until(lambda: any(self.temperature(payload) > 150 for payload in self.all(observer)))
            await observer.until(lambda: self.temperature(self.all(observer)[-1]) < 100)
        assert 0 < len(ledger) < factory.statistics.readings_acknowledged, "spoiled readings are not in the ledger"

    async def test_a_planned_fault_comes_by_itself(self, mosquitto: Mosquitto) -> None:
        fault = PlannedFault(0.1, "press-01", Fault.OVERHEATING, rate=10_000.0)
        async with observing(mosquitto) as observer, running(plan_for(mosquitto, PRESS, faults=(fault,))):
            await observer.until(lambda: any(self.temperature(payload) > 80 for payload in self.all(observer)))

    @pytest.mark.parametrize("act", ["inject", "heal", "cut"])
    async def test_an_unknown_device_is_named(self, mosquitto: Mosquitto, act: str) -> None:
        factory = Factory(plan_for(mosquitto, PRESS))
        with pytest.raises(LookupError, match="no device 'nope' in this factory; there are press-01"):
            getattr(factory, act)("nope", Fault.STUCK)

    @staticmethod
    def all(observer: Observer) -> list[bytes]:
        return observer.payloads("press-01")

    @staticmethod
    def temperature(payload: bytes) -> float:
        try:
            found = json.loads(payload)
        except json.JSONDecodeError:
            return 0.0
        return max(float(item["temperature"]) for item in (found if isinstance(found, list) else [found]))


class TestCredentials:
    @pytest.fixture
    def guarded(self, tmp_path: Path) -> Iterator[Mosquitto]:
        passwords, access = tmp_path / "passwords", tmp_path / "access"
        passwords.write_text("press-01:one\ncnc-01:two\nall:three\n")
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        access.write_text(f"user all\ntopic readwrite {ROOT}/#\n\npattern write {ROOT}/devices/%u/#\n")
        lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {access}")
        with running_mosquitto(tmp_path, *lines) as broker:
            yield broker

    async def test_each_device_has_its_own_account(self, guarded: Mosquitto) -> None:
        plan = plan_for(guarded, PRESS, CNC)
        accounts = {"press-01": ("press-01", "one"), "cnc-01": ("cnc-01", "two")}
        for credentials in (accounts, accounts.__getitem__):
            async with observing(guarded, "all", "three") as observer:
                async with running(replace(plan, broker=replace(plan.broker, credentials=credentials))) as factory:
                    await observer.until(lambda seen=observer: all(seen.payloads(d) for d in accounts))  # type: ignore[misc]
                assert factory.statistics.refused == 0

    async def test_a_refused_message_is_counted_and_not_in_the_ledger(self, guarded: Mosquitto) -> None:
        ledger: list[Acknowledged] = []
        plan = plan_for(guarded, PRESS, ledger=ledger.append, duration_s=0.3)
        broker = replace(plan.broker, credentials=("cnc-01", "two"))
        statistics = await run_simulation(replace(plan, broker=broker))
        assert statistics.refused > 0
        assert "Not authorized" in statistics.last_error
        assert (ledger, statistics.acknowledged) == ([], 0)

    async def test_a_wrong_password_is_said_and_does_not_hang(self, guarded: Mosquitto) -> None:
        plan = plan_for(guarded, PRESS, duration_s=0.3)
        statistics = await run_simulation(replace(plan, broker=replace(plan.broker, credentials=("press-01", "x"))))
        assert "refused press-01" in statistics.last_error
        assert statistics.acknowledged == 0

    async def test_a_device_without_an_account_is_named_before_the_start(self, guarded: Mosquitto) -> None:
        plan = plan_for(guarded, PRESS)
        with pytest.raises(LookupError, match="no account for device 'press-01'"):
            await run_simulation(replace(plan, broker=replace(plan.broker, credentials={})))

    async def test_a_replay_with_a_wrong_password_fails_at_once(self, guarded: Mosquitto, tmp_path: Path) -> None:
        plan = replay_of(guarded, recording(tmp_path, 3))
        with pytest.raises(ConnectionRefused):
            await run_replay(replace(plan, broker=replace(plan.broker, credentials=("all", "x"))))


START = datetime(2026, 3, 1, tzinfo=UTC)


def recording(directory: Path, count: int, step: timedelta = timedelta(seconds=1)) -> Path:
    path = directory / "recording.csv"
    lines = [f"{(START + n * step).isoformat()};m-{n % 3};{n},5\n" for n in range(count)]
    path.write_text("".join(["when;machine;Öl\n", *lines]), encoding="cp1252")
    return path


def replay_of(broker: Mosquitto, path: Path, **options: Any) -> ReplayPlan:
    layout = Layout({"Öl": "temperature"}, device_column="machine", time_columns=("when",), decimal_comma=True)
    given: dict[str, Any] = {"speed": 0.0, "text_encoding": "cp1252", "reconnect_max_s": 0.2} | options
    return ReplayPlan(Broker("127.0.0.1", broker.port, root=ROOT, timeout_s=5.0), path, layout, **given)


class TestReplay:
    async def test_a_recording_arrives_whole_with_its_own_times(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        path = recording(tmp_path, 900)
        with path.open("a", encoding="cp1252") as more:
            more.write("2026-03-01T01:00:00Z;m-0;broken\n")
        ledger: list[Acknowledged] = []
        async with observing(mosquitto) as observer:
            report = await run_replay(replay_of(mosquitto, path, ledger=ledger.append))
            await observer.until(lambda: len(observer.messages) == 900)
            values = sorted(r["temperature"] for d in ("m-0", "m-1", "m-2") for r in observer.readings(d))
            assert values == [n + 0.5 for n in range(900)]
            assert observer.readings("m-1")[0]["recorded_at"] == "2026-03-01T00:00:01.000Z"
            assert observer.sequence("m-2") == list(range(1, 301))
        assert (report.rows, report.bad_rows, report.devices) == (900, 1, {"m-0": 300, "m-1": 300, "m-2": 300})
        assert report.first_bad_rows[0].line == 902
        assert report.statistics.acknowledged == len(ledger) == 900

    async def test_it_keeps_its_pace_and_shifts_to_now(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        plan = replay_of(mosquitto, recording(tmp_path, 5), speed=10.0, shift_to_now=True)
        async with observing(mosquitto) as observer:
            begin = datetime.now(UTC)
            await run_replay(plan)
            took = datetime.now(UTC) - begin
            await observer.until(lambda: len(observer.messages) == 5)
            times = sorted(
                datetime.fromisoformat(r["recorded_at"]) for d in ("m-0", "m-1", "m-2") for r in observer.readings(d)
            )
        assert took >= timedelta(seconds=0.4)
        assert times[-1] - times[0] == timedelta(seconds=0.4)
        assert begin <= times[0] <= begin + took

    async def test_without_a_pace_the_recording_ends_now(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        ledger: list[Acknowledged] = []
        begin = datetime.now(UTC)
        await run_replay(replay_of(mosquitto, recording(tmp_path, 60), shift_to_now=True, ledger=ledger.append))
        times = sorted(entry.recorded_at for entry in ledger)
        assert begin <= times[-1] <= datetime.now(UTC)
        assert times[-1] - times[0] == timedelta(seconds=59)

    async def test_a_broker_killed_in_the_middle_costs_no_row(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        ledger: list[Acknowledged] = []

        def enter(entry: Acknowledged) -> None:
            ledger.append(entry)
            if len(ledger) == 200:
                mosquitto.kill()
                mosquitto.start()

        report = await run_replay(replay_of(mosquitto, recording(tmp_path, 900), ledger=enter))
        assert {(entry.device, entry.seq) for entry in ledger} == {(f"m-{d}", n) for d in range(3) for n in range(1, 301)}
        assert len(ledger) == report.statistics.acknowledged == 900
        assert report.statistics.reconnects == 1

    async def test_stopping_waits_for_what_is_in_flight(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        stop = asyncio.Event()
        plan = replay_of(mosquitto, recording(tmp_path, 900), speed=1.0, ledger=lambda _: stop.set())
        report = await run_replay(plan, stop=stop)
        assert report.rows == report.statistics.acknowledged == 1

    async def test_stopping_without_a_broker_does_not_hang(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        stop = asyncio.Event()

        def enter(_: Acknowledged) -> None:
            mosquitto.kill()
            stop.set()

        plan = replay_of(mosquitto, recording(tmp_path, 900), ledger=enter)
        report = await run_replay(replace(plan, broker=replace(plan.broker, timeout_s=0.5)), stop=stop)
        assert 1 <= report.statistics.acknowledged < report.rows

    async def test_an_absent_broker_and_an_unusable_file_are_errors(self, mosquitto: Mosquitto, tmp_path: Path) -> None:
        plan = replay_of(mosquitto, recording(tmp_path, 3))
        with pytest.raises(RecordingError, match=r"'x' is not in the recording; its columns are 'when', 'machine', 'Öl'"):
            await run_replay(replace(plan, layout=replace(plan.layout, mapping={"x": "rpm"})))
        with pytest.raises(RecordingError, match=r"gone.csv: cannot be read: No such file"):
            await run_replay(replace(plan, file=tmp_path / "gone.csv"))
        with pytest.raises(RecordingError, match="text encoding 'utf-99' is not known"):
            await run_replay(replace(plan, text_encoding="utf-99"))
        mosquitto.kill()
        with pytest.raises(BrokerUnavailable, match="is not reachable"):
            await run_replay(plan)
