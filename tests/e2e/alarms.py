"""An operator's ears in the tests: what comes on the topics of alerts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import mqtt5

from tests.e2e.client import Client
from tests.e2e.conftest import ROOT, Plant


class Told(NamedTuple):
    """One message about an alert."""

    topic: str
    body: dict[str, Any]
    retained: bool


class Ears:
    """A subscriber that keeps all it hears."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.heard: list[Told] = []
        self._more = asyncio.Event()

    async def listen(self) -> None:
        while True:
            packet = await self._client.read_next(mqtt5.PublishPacket)
            body = json.loads(packet.payload) if packet.payload else {}
            self.heard.append(Told(packet.topic.removeprefix(f"{ROOT}/"), body, packet.retain))
            self._more.set()

    def events(self) -> list[tuple[str, str, Any]]:
        """Returns (severity, device, status) of all events so far."""
        found = (told for told in self.heard if told.topic.startswith("alert-events/"))
        return [(*told.topic.split("/")[1:3], told.body["status"]) for told in found]

    async def until(self, count: int, prefix: str = "alert-events/", within_s: float = 10) -> list[Told]:
        """Waits for so many messages on topics with that prefix, and returns them."""
        try:
            async with asyncio.timeout(within_s):
                while len(found := [told for told in self.heard if told.topic.startswith(prefix)]) < count:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"{len(found)} of {count} messages on {prefix}: {self.heard}") from None
        return found


@asynccontextmanager
async def listening(plant: Plant) -> AsyncIterator[Ears]:
    async with plant.client() as client:
        for place, topic in enumerate(("alerts/#", "alert-events/#", "alert-history/#", "operators/#"), 1):
            await client.subscribe(f"{ROOT}/{topic}", number=place)
        ears = Ears(client)
        task = asyncio.create_task(ears.listen())
        try:
            yield ears
        finally:
            task.cancel()
            await asyncio.wait({task})


async def threshold(plant: Plant, device: str, metric: str = "temperature", **columns: Any) -> int:
    """Writes a threshold by plain SQL, and returns its number."""
    values = {"severity": "warning", "metric_type": metric, **columns}
    names, marks = ", ".join(values), ", ".join("%s" for _ in values)
    number: int = await plant.value(
        f"INSERT INTO alert_thresholds (device_id, user_id, {names})"
        f" SELECT d.id, u.id, {marks} FROM devices d, users u WHERE d.device_id = %s AND u.login = 'system' RETURNING id",
        *values.values(),
        device,
    )
    return number
