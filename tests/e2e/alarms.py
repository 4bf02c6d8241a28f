"""An operator's ears in the tests: what comes on the topics of alerts."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import mqtt5

from tests.e2e.client import Client, Message
from tests.e2e.conftest import ROOT, Plant

TOPICS = ("alerts/#", "alert-events/#", "alert-history/#", "operators/+/responses", "daemon/+")


class Told(NamedTuple):
    """One message about an alert."""

    topic: str
    body: dict[str, Any]


class Ears:
    """A subscriber that keeps all it hears: `standing` is what was, or is, retained."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.heard: list[Told] = []
        self.standing: dict[str, dict[str, Any]] = {}
        self._more = asyncio.Event()

    async def listen(self) -> None:
        while True:
            packet = await self._client.read_next(mqtt5.PublishPacket)
            topic = packet.topic.removeprefix(f"{ROOT}/")
            body = json.loads(packet.payload) if packet.payload else {}
            if topic.startswith(("alerts/", "daemon/")):
                self.standing[topic] = body
                if not body:
                    del self.standing[topic]
            if body and not packet.retain:
                self.heard.append(Told(topic, body))
            self._more.set()

    def events(self) -> list[tuple[str, str, Any]]:
        """Returns (severity, device, status) of all events so far."""
        found = (told for told in self.heard if told.topic.startswith("alert-events/"))
        return [(*told.topic.split("/")[1:3], told.body["status"]) for told in found]

    async def until(self, count: int, prefix: str = "alert-events/", within_s: float = 10) -> list[Told]:
        """Waits for so many messages on topics with that prefix, and returns them."""

        def found() -> list[Told]:
            return [told for told in self.heard if told.topic.startswith(prefix)]

        await self.until_true(lambda: len(found()) >= count, within_s)
        assert len(found()) == count, found()
        return found()

    async def until_true(self, condition: Callable[[], bool], within_s: float = 10) -> None:
        """Waits for what messages bring about."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within_s:g} s; heard {self.heard}; standing {self.standing}") from None


@asynccontextmanager
async def listening(plant: Plant) -> AsyncIterator[Ears]:
    async with plant.client() as client:
        for place, topic in enumerate(
            ("alerts/#", "alert-events/#", "alert-history/#", "operators/+/responses", "daemon/+"), 1
        ):
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


def reading(value: float, age_s: float = 0.0, metric: str = "temperature") -> bytes:
    """Returns a payload of one metric, recorded so long ago."""
    moment = datetime.now(UTC) - timedelta(seconds=age_s)
    return json.dumps({"recorded_at": moment.isoformat(), metric: value}).encode()


async def person(plant: Plant, login: str, role: str = "operator") -> None:
    await plant.sql(
        "INSERT INTO users (login, email, password_hash, name, role) VALUES (%s, %s, '!', %s, %s::user_role)",
        login,
        f"{login}@example.org",
        login.title(),
        role,
    )


def command(login: str, action: str, alert_id: int, **fields: Any) -> Message:
    return Message(
        f"{ROOT}/operators/{login}/commands", json.dumps({"action": action, "alert_id": alert_id, **fields}).encode()
    )
