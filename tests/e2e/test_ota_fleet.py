"""Reference devices and the whole daemon: signed firmware from a file server, with power cuts, faults and lost words."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ota.signing import keyid_of
from simulator.artifact_server import ArtifactServer
from simulator.connection import Broker
from simulator.ota_device import Habits
from simulator.ota_faults import Faults
from simulator.ota_fleet import OtaFleet
from tests.e2e.conftest import ROOT, Plant
from tests.e2e.updates import deployment, stands, until_outcome, version
from tests.integration.updating import HARDWARE, PUBLIC, released

SETTINGS = {"ota": {"allowed_hosts": ["127.0.0.1"], "retry_base_s": 0.1, "retry_cap_s": 0.1}}
FAULTS = {
    "calm-1": Faults(),
    "dark-1": Faults(power_cuts=["heard", "downloading", "installing", "rebooting", "ended"]),
    "line-1": Faults(network_errors=1, spoiled_downloads=1),
    "mute-1": Faults(silent=True),
    "lost-1": Faults(loses_success=True),
    "flash-1": Faults(failures={"installing": "flash_write"}),
    "dead-1": Faults(boot_failed=True),
}
GOOD = {"calm-1", "dark-1", "line-1", "mute-1", "lost-1"}


@pytest.fixture
async def fleet(plant: Plant, tmp_path: Path) -> OtaFleet:
    await plant.register(*FAULTS)
    url = urlsplit(plant.broker.tools_url)
    where = Broker("127.0.0.1", url.port or 1883, ROOT, (url.username or "", url.password or ""))
    habits = Habits(chunk_bytes=16_384, reconnect_max_s=0.05)
    return OtaFleet(FAULTS, HARDWARE, where, tmp_path / "fleet", (PUBLIC,), FAULTS, habits)


async def signed_version(plant: Plant, url: str) -> int:
    await plant.sql("INSERT INTO ota_keys (keyid, public_key) VALUES (%s, %s)", keyid_of(PUBLIC), PUBLIC)
    columns = released(url)
    return await version(plant, columns.pop("version"), **columns)


async def test_every_device_ends_on_the_right_version_or_with_the_right_reason(
    plant: Plant, fleet: OtaFleet, files: ArtifactServer
) -> None:
    async with plant.running(**SETTINGS), fleet:
        fleet.switch_on()
        target = await signed_version(plant, f"{files.url}/fw.bin")
        numbers = {name: await deployment(plant, name, target, verify_mode="version") for name in FAULTS}
        for name in GOOD:
            await until_outcome(plant, numbers[name], "already_installed" if name == "mute-1" else "succeeded")
        await until_outcome(plant, numbers["flash-1"], "failed")
        await until_outcome(plant, numbers["dead-1"], "rolled_back")
        assert (await stands(plant, numbers["flash-1"]))[-1] == "flash_write"
    assert {name for name, runs in fleet.versions().items() if runs == "2.0.0"} == GOOD
    assert fleet.installs() == {name: {} if name == "flash-1" else {numbers[name]: 1} for name in FAULTS}
