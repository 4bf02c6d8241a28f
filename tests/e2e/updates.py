"""Devices in the tests of firmware: played by the test itself, one message at a time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mqtt5

from tests.e2e.client import Client, Message
from tests.e2e.conftest import ROOT, Plant

OPEN: dict[str, dict[str, Any]] = {"ota": {"allow_unsigned": True}}
QUICK: dict[str, dict[str, Any]] = {
    "ota": {"allow_unsigned": True, "retry_base_s": 0.2, "retry_cap_s": 0.2, "ack_s": 1, "cancel_s": 1, "stall_s": 2}
}


class Commands:
    """What was sent to devices, in order."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.heard: list[dict[str, Any]] = []
        self.retained = 0
        self._more = asyncio.Event()

    async def listen(self) -> None:
        while True:
            packet = await self._client.read_next(mqtt5.PublishPacket)
            self.retained += packet.retain
            self.heard.append({"topic": packet.topic, **json.loads(packet.payload)})
            self._more.set()

    async def until(self, count: int, within_s: float = 10) -> list[dict[str, Any]]:
        """Waits for so many commands, and returns them."""
        try:
            async with asyncio.timeout(within_s):
                while len(self.heard) < count:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self.heard)} of {count} commands within {within_s:g} s: {self.heard}") from None
        return self.heard


@asynccontextmanager
async def commands(plant: Plant) -> AsyncIterator[Commands]:
    async with plant.client() as client:
        await client.subscribe(f"{ROOT}/devices/+/ota/command")
        heard = Commands(client)
        task = asyncio.create_task(heard.listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.wait({task})


async def version(plant: Plant, name: str, **columns: Any) -> int:
    """Writes a released version by plain SQL, and returns its number."""
    values = {"version": name, "firmware_url": f"https://files.example/{name}.bin", "status": "released", **columns}
    names, marks = ", ".join(values), ", ".join("%s" for _ in values)
    number: int = await plant.value(f"INSERT INTO ota_versions ({names}) VALUES ({marks}) RETURNING id", *values.values())
    return number


async def deployment(plant: Plant, device: str, version_id: int, **columns: Any) -> int:
    """Writes a deployment by plain SQL, and returns its number."""
    names, marks = "".join(f", {name}" for name in columns), "".join(", %s" for _ in columns)
    number: int = await plant.value(
        f"INSERT INTO ota_deployments (device_id, version_id{names})"
        f" SELECT id, %s{marks} FROM devices WHERE device_id = %s RETURNING id",
        version_id,
        *columns.values(),
        device,
    )
    return number


def report(device: str, number: int, **fields: Any) -> Message:
    return Message(f"{ROOT}/devices/{device}/ota/progress", json.dumps({"deployment_id": number, **fields}).encode())


def state(device: str, retain: bool = False, **fields: Any) -> Message:
    """A live one; what is retained would stay at the session's broker for the tests that follow."""
    return Message(f"{ROOT}/devices/{device}/ota/state", json.dumps(fields).encode(), 1, retain)


def birth(device: str, **fields: Any) -> Message:
    return Message(f"{ROOT}/devices/{device}/status", json.dumps({"status": "online", **fields}).encode())


async def stands(plant: Plant, number: int) -> tuple[Any, ...]:
    """Returns (status, phase, outcome, percent, error code) of a deployment."""
    (row,) = await plant.sql(
        "SELECT status::text, phase, outcome, progress_percent, error_code FROM ota_deployments WHERE id = %s", number
    )
    return row


async def until_outcome(plant: Plant, number: int, outcome: str) -> None:
    await plant.until_sql(f"SELECT outcome FROM ota_deployments WHERE id = {number}", outcome)


async def until_phase(plant: Plant, number: int, phase: str) -> None:
    await plant.until_sql(f"SELECT phase FROM ota_deployments WHERE id = {number}", phase)
