"""The reference device against a real broker and a file server: updates, power cuts, faults, cancels."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.artifact_server import ArtifactServer
from simulator.connection import Broker
from simulator.ota_fleet import OtaFleet
from tests.integration.simulating import ROOT, Mosquitto, observing, running_mosquitto
from tests.integration.updating import (
    FIRMWARE,
    HABITS,
    HARDWARE,
    NAME,
    PUBLIC,
    Bench,
    bench,
    cancel,
    envelope,
    manifest,
    update,
)

PHASES = ["acknowledged", "downloading", "downloaded", "verifying", "installing", "installed", "rebooting", "confirming"]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
async def plant(mosquitto: Mosquitto, files: ArtifactServer, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(mosquitto, files, tmp_path) as made:
        yield made


async def test_an_update_from_command_to_confirmation(plant: Bench) -> None:
    async with plant.on() as device:
        assert plant.states()[0]["version"] == "1.0.0"
        await plant.send(update(plant.url))
        done = await plant.until("succeeded")
        await plant.seen.until(lambda: "last" in plant.states()[-1])
        assert plant.phases() == [*PHASES, "succeeded"]
        assert (done["version"], done["progress_percent"], done["attempt"]) == ("2.0.0", 100, 1)
        state = plant.states()[-1]
        assert (state["version"], state["confirmed"], state["slot"], state["last_manifest_seq"]) == ("2.0.0", True, "B", 1)
        assert state["last"] == {"deployment_id": 7, "attempt": 1, "outcome": "succeeded"}
        assert device.boots == 2
    numbers = [each["seq"] for each in plant.reports()]
    assert numbers == sorted(set(numbers))
    percents = [each["progress_percent"] for each in plant.reports()]
    assert percents == sorted(percents)
    assert (plant.folder / "device/slot-B.bin").read_bytes() == FIRMWARE


async def test_the_first_message_of_every_boot_is_its_state(plant: Bench) -> None:
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("succeeded")
        assert device.boots == 2
    own = [topic.rpartition("/")[2] for topic, _, _ in plant.seen.messages if topic.startswith(f"{ROOT}/devices/{NAME}/")]
    assert own[0] == "state"
    boots = [plant.states()[0]["boot_id"], plant.states()[1]["boot_id"]]
    assert len(set(boots)) == 2
    phases = [each["phase"] for each in plant.reports()]
    second = own.index("state", 1)
    assert own[1:second].count("progress") == phases.index("confirming"), "nothing of the new boot came before its state"


@pytest.mark.parametrize("phase", ["heard", *PHASES, "ended"])
async def test_power_cut_in_each_phase(plant: Bench, phase: str) -> None:
    plant.faults.power_cuts = [phase]
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("succeeded")
        assert device.version == "2.0.0"
        assert [each.deployment_id for each in device.installs] == [7]
        assert plant.faults.power_cuts == []
        assert device.boots == 3 - (phase in {"installed", "rebooting"})
    ranges = [each.range for each in plant.files.fetches]
    assert ranges == ([None, "bytes=16384-"] if phase == "downloading" else [None])


async def test_the_command_is_acknowledged_after_it_is_on_disk(plant: Bench) -> None:
    async with plant.on():
        pass
    await plant.send(update(plant.url))  # while it is off: its session keeps the command
    async with plant.on():
        await plant.until("succeeded")


async def test_what_does_not_start_is_rolled_back(plant: Bench) -> None:
    plant.faults.boot_failed = True
    async with plant.on() as device:
        await plant.send(update(plant.url))
        report = await plant.until("rolled_back")
        assert (report["error_code"], report["version"], device.version) == ("boot_failed", "1.0.0", "1.0.0")
        plant.faults.boot_failed = False
        await plant.send(update(plant.url, 8))
        assert (await plant.until("succeeded"))["deployment_id"] == 8


async def test_url_expires_and_a_fresh_one_comes(plant: Bench) -> None:
    plant.files.answers["/fw.bin?old"] = 403
    async with plant.on():
        await plant.send(update(f"{plant.url}?old"))
        asked = await plant.until("failed")
        assert (asked["error_code"], asked["attempt"]) == ("url_expired", 1)
        await plant.send(update(f"{plant.url}?old"))  # the same again
        await plant.until("failed", 2)
        await plant.send(update(f"{plant.url}?new"))
        assert (await plant.until("succeeded"))["attempt"] == 1


@pytest.mark.parametrize(("fault", "code"), [("network_errors", "network"), ("spoiled_downloads", "digest_mismatch")])
async def test_a_download_fails_and_the_next_attempt_succeeds(plant: Bench, fault: str, code: str) -> None:
    setattr(plant.faults, fault, 1)
    async with plant.on() as device:
        await plant.send(update(plant.url))
        assert (await plant.until("failed"))["error_code"] == code
        await plant.seen.until(lambda: plant.states()[-1].get("last", {}).get("error_code") == code)
        await plant.send(update(plant.url, attempt=2))
        assert (await plant.until("succeeded"))["attempt"] == 2
        assert len(device.installs) == 1


@pytest.mark.parametrize(("status", "code"), [(404, "http_4xx"), (429, "http_429"), (503, "http_5xx")])
async def test_what_the_file_server_answers_has_a_word(plant: Bench, status: int, code: str) -> None:
    plant.files.answers["/fw.bin"] = status
    async with plant.on():
        await plant.send(update(plant.url))
        assert (await plant.until("failed"))["error_code"] == code


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("acknowledged", "low_power"),
        ("downloading", "network"),
        ("downloaded", "no_space"),
        ("verifying", "digest_mismatch"),
        ("installing", "flash_write"),
    ],
)
async def test_told_to_fail_in_a_phase(plant: Bench, phase: str, code: str) -> None:
    plant.faults.failures = {phase: code}
    async with plant.on() as device:
        await plant.send(update(plant.url))
        assert (await plant.until("failed"))["error_code"] == code
        assert (device.version, device.installs, device.boots) == ("1.0.0", (), 1)
        plant.faults.failures = {}
        await plant.send(update(plant.url, attempt=2))
        await plant.until("succeeded")
        assert device.version == "2.0.0"


async def test_new_firmware_that_gives_itself_up_is_rolled_back(plant: Bench) -> None:
    plant.faults.failures = {"confirming": "self_test_failed"}
    async with plant.on() as device:
        await plant.send(update(plant.url))
        report = await plant.until("rolled_back")
        assert (report["error_code"], report["version"], device.version) == ("self_test_failed", "1.0.0", "1.0.0")
        assert (len(device.installs), device.boots) == (1, 3)


@pytest.mark.parametrize("size", [len(FIRMWARE) - 1, len(FIRMWARE) + 1])
async def test_a_file_of_another_size_is_not_installed(plant: Bench, size: int) -> None:
    async with plant.on() as device:
        await plant.send(update(plant.url, signed=manifest(size=size)))
        assert (await plant.until("failed"))["error_code"] in {"size_mismatch", "network"}
        assert device.installs == ()


@pytest.mark.parametrize("phase", ["downloading", "downloaded", "verifying", "installing"])
async def test_cancel_in_each_phase(plant: Bench, phase: str) -> None:
    plant.habits = HABITS._replace(pace_s=0.1)
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until(phase)
        await plant.send(cancel())
        assert (await plant.until("cancelled"))["deployment_id"] == 7
        assert (device.version, device.installs) == ("1.0.0", ())


async def test_cancel_comes_too_late(plant: Bench) -> None:
    plant.habits = HABITS._replace(pace_s=0.2)
    async with plant.on():
        await plant.send(update(plant.url))
        await plant.until("installed")
        await plant.send(cancel())
        await plant.until("too_late")
        await plant.until("succeeded")


async def test_cancel_of_what_it_does_not_know(plant: Bench) -> None:
    async with plant.on():
        await plant.send(cancel(99))
        assert (await plant.until("cancelled"))["deployment_id"] == 99


async def test_the_command_again_changes_nothing(plant: Bench) -> None:
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("succeeded")
        await plant.send(update(plant.url))
        await plant.until("succeeded", 2)
        assert (len(device.installs), device.boots) == (1, 2)


async def test_the_same_firmware_by_another_deployment_is_not_installed_twice(plant: Bench) -> None:
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("succeeded")
        await plant.send(update(plant.url, 8))
        assert (await plant.until("succeeded", 2))["deployment_id"] == 8
        assert len(device.installs) == 1


async def test_a_lost_success_is_told_by_the_hello(plant: Bench) -> None:
    plant.faults.loses_success = True
    async with plant.on():
        await plant.send(update(plant.url))
        await plant.seen.until(lambda: plant.states()[-1].get("last", {}).get("outcome") == "succeeded")
        assert "succeeded" not in plant.phases()
        assert plant.states()[-1]["version"] == "2.0.0"


async def test_a_silent_device_installs_all_the_same(plant: Bench) -> None:
    plant.faults.silent = True
    async with plant.on():
        await plant.send(update(plant.url))
        await plant.seen.until(lambda: plant.states()[-1]["version"] == "2.0.0")
        assert plant.reports() == []


async def test_power_cut_at_any_moment(plant: Bench) -> None:
    plant.habits = HABITS._replace(pace_s=0.05)
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("downloading")
        device.cut_power()
        await plant.until("succeeded")
        assert len(device.installs) == 1


async def test_the_broker_goes_away_in_the_middle(plant: Bench, mosquitto: Mosquitto) -> None:
    plant.habits = HABITS._replace(pace_s=0.05)
    async with plant.on() as device:
        await plant.send(update(plant.url))
        await plant.until("downloading")
        mosquitto.kill()
        mosquitto.start()
        async with observing(mosquitto) as seen:
            await seen.until(lambda: b'"phase":"succeeded"' in b"".join(seen.payloads(NAME, "ota/progress")), 10)
        assert [each.deployment_id for each in device.installs] == [7]


REFUSED: dict[str, tuple[dict[str, Any], str | None]] = {
    "replayed": ({"number": 6}, None),
    "re-addressed": ({"device": "press-02"}, "wrong_device"),
    "expired": ({"expires_at": "2026-01-01T00:00:00Z"}, "command_expired"),
    "downgraded": ({"signed": manifest("0.9.0", seq=2)}, "sequence_too_old"),
    "an older manifest": ({"signed": manifest("2.1.0", seq=0)}, "sequence_too_old"),
    "wrong type": ({"type": "flash"}, None),
    "a manifest of another type": ({"manifest": envelope(manifest(), kind="application/json")}, "signature_invalid"),
    "unsigned": ({"manifest": None}, "signature_invalid"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(plant: Bench, case: str) -> None:
    fields, code = REFUSED[case]
    async with plant.on() as device:
        await plant.send(update(plant.url, 6))
        await plant.until("succeeded")
        heard = len(plant.states()) + len(plant.reports())
        await plant.send(update(plant.url, **({"number": 7} | fields)))
        if code is not None:
            refusal = await plant.until("rejected")
            assert (refusal["deployment_id"], refusal["error_code"]) == (7, code)
        await plant.send({"v": 1, "type": "query", "device": NAME})  # is answered after what came before it
        await plant.seen.until(lambda: len(plant.states()) + len(plant.reports()) > heard + (case != "wrong type"))
        assert "last" in plant.states()[-1]
        assert (device.version, len(device.installs), device.boots) == ("2.0.0", 1, 2)


async def test_a_fleet_counts_its_installs(plant: Bench, mosquitto: Mosquitto, tmp_path: Path) -> None:
    names = [f"press-{number:02}" for number in range(1, 21)]
    on, off = names[:15], names[15:]
    where = Broker("127.0.0.1", mosquitto.port, root=ROOT, timeout_s=5.0)
    async with OtaFleet(names, HARDWARE, where, tmp_path / "fleet", (PUBLIC,), habits=HABITS) as fleet:
        fleet.switch_on(on)
        await plant.seen.until(lambda: all(plant.seen.payloads(name, "status") for name in on))
        for name in names:
            await plant.client.publish(f"{ROOT}/devices/{name}/ota/command", json.dumps(update(plant.url, device=name)), qos=1)
        await plant.seen.until(lambda: all(plant.ended(name) == "succeeded" for name in on))
        assert {name for name, version in fleet.versions().items() if version == "2.0.0"} == set(on)
        fleet.switch_on(off)
        await plant.seen.until(lambda: all(plant.seen.payloads(name, "status") for name in off))
        assert plant.ended(off[0]) is None, "it had no session when the command came"
    assert fleet.installs() == {name: {7: 1} if name in on else {} for name in names}
