"""The example of the device guide as it stands, on a real broker; the test plays the daemon, and switches it on again."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from ota.payloads import read_report, read_state
from simulator.artifact_server import ArtifactServer
from tests.integration.simulating import Mosquitto, Observer, running_mosquitto, watch
from tests.integration.updating import FIRMWARE, NAME, cancel, manifest, update

EXAMPLE = Path(__file__).parents[2] / "docs/examples/ota_device.py"
BASE = f"factory/devices/{NAME}/ota"


class Daemon:
    """Who publishes commands, and hears what comes of them."""

    def __init__(self, client: aiomqtt.Client, seen: Observer) -> None:
        self._client = client
        self._seen = seen

    async def send(self, body: dict[str, Any]) -> None:
        await self._client.publish(f"{BASE}/command", json.dumps(body), qos=1)

    def heard(self, leaf: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in self._seen.messages if topic == f"{BASE}/{leaf}"]

    def phases(self) -> list[str]:
        return [each["phase"] for each in self.heard("progress")]

    async def until(self, phase: str, count: int = 1) -> dict[str, Any]:
        await self._seen.until(lambda: self.phases().count(phase) >= count, 10)
        return [each for each in self.heard("progress") if each["phase"] == phase][-1]

    async def until_states(self, count: int) -> dict[str, Any]:
        await self._seen.until(lambda: len(self.heard("state")) >= count, 10)
        return self.heard("state")[-1]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path) as mosquitto:
        yield mosquitto


@pytest.fixture
async def daemon(broker: Mosquitto) -> AsyncIterator[Daemon]:
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("factory/#", qos=1)
        seen = Observer()
        watching = asyncio.create_task(watch(client, seen))
        try:
            yield Daemon(client, seen)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def switched_on(broker: Mosquitto, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, str(EXAMPLE), "127.0.0.1", str(broker.port), NAME, str(folder))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        _, errors = await process.communicate()
        assert b"Traceback" not in errors, errors.decode()


def order(files: ArtifactServer, number: int = 7, attempt: int = 1, **more: Any) -> dict[str, Any]:
    facts = manifest()
    return update(f"{files.url}/fw.bin", number, attempt, size_bytes=facts["size"], sha256=facts["sha256"]) | more


def test_it_is_sixty_lines() -> None:
    assert len([line for line in EXAMPLE.read_text().splitlines() if line]) <= 60


async def test_it_updates_itself(broker: Mosquitto, files: ArtifactServer, daemon: Daemon, tmp_path: Path) -> None:
    async with switched_on(broker, tmp_path) as process:
        assert (await daemon.until_states(1))["version"] == "1.0.0"
        await daemon.send(order(files))
        assert await process.wait() == 0, "it reboots"
    before = 5
    await daemon.until_states(before)
    async with switched_on(broker, tmp_path):
        done = await daemon.until("succeeded")
        assert (done["version"], done["progress_percent"], done["attempt"]) == ("2.0.0", 100, 1)
        state = await daemon.until_states(before + 2)
        assert (state["active"], state["last"]["phase"]) == (None, "succeeded")
        await daemon.send(order(files))  # the same again
        await daemon.until_states(before + 3)
    assert daemon.heard("state")[before]["version"] == "2.0.0"
    assert daemon.phases() == ["acknowledged", "downloading", "installing", "rebooting", "confirming", "succeeded"]
    assert (tmp_path / "firmware.bin").read_bytes() == FIRMWARE
    for body in daemon.heard("progress"):
        read_report(json.dumps(body).encode())
    for body in daemon.heard("state"):
        assert "firmware_url" not in json.dumps(body)
        assert read_state(json.dumps(body).encode(), retained=False, repeated=False) is not None
    numbers = [body["seq"] for leaf in ("progress", "state") for body in daemon.heard(leaf)]
    assert len(set(numbers)) == len(numbers)


async def test_it_goes_on_after_a_power_cut(broker: Mosquitto, files: ArtifactServer, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "download.bin").write_bytes(FIRMWARE[:1000])
    work = {"deployment_id": 7, "attempt": 1, "phase": "downloading"}
    note = {"order": order(files), "active": work, "seen": {"7": 1}, "seq": 5}
    (tmp_path / "note.json").write_text(json.dumps(note))
    async with switched_on(broker, tmp_path) as process:
        assert await process.wait() == 0
    async with switched_on(broker, tmp_path):
        await daemon.until("succeeded")
    assert [each.range for each in files.fetches] == ["bytes=1000-"]


async def test_it_reports_what_fails_and_takes_the_next_attempt(
    broker: Mosquitto, files: ArtifactServer, daemon: Daemon, tmp_path: Path
) -> None:
    async with switched_on(broker, tmp_path) as process:
        await daemon.until_states(1)
        await daemon.send(order(files, sha256="0" * 64))
        assert (await daemon.until("failed"))["error_code"] == "digest_mismatch"
        await daemon.send(order(files, attempt=2, firmware_url=f"{files.url}/missing.bin"))
        assert (await daemon.until("failed", 2))["error_code"] == "network"
        await daemon.send(order(files, attempt=3, device="press-02"))
        await daemon.send(cancel(8))
        assert (await daemon.until("cancelled"))["deployment_id"] == 8
        await daemon.send(order(files, attempt=3))
        assert await process.wait() == 0
    assert [each["attempt"] for each in daemon.heard("progress") if each["phase"] == "acknowledged"] == [1, 2, 3]
