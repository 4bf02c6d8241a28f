"""kill -9 at every step between receiving a crossing and marking its alert as published: 13 rounds in `make test`, 100 in
`make faults`. One alert per crossing, told at least once, and never again once it is marked.
"""

import asyncio
import json
import random
import time
from collections import defaultdict
from datetime import UTC, datetime

import pytest

from tests.e2e.alarms import TOPICS, Ears
from tests.e2e.client import Client, Message
from tests.faults.conftest import ROOT, Plant
from tests.faults.dying_daemon import STEPS

DYING = ("-m", "tests.faults.dying_daemon")
HOT, COOL = 90.0, 70.0
Version = tuple[int, int]
"""Number of the alert, and its version."""


def _telemetry(device: str, value: float) -> Message:
    body = {"recorded_at": datetime.now(UTC).isoformat(), "temperature": value}
    return Message(f"{ROOT}/devices/{device}/telemetry", json.dumps(body).encode())


def _marked(plant: Plant) -> set[Version]:
    rows = plant.execute("SELECT alert_id, version FROM alert_outbox WHERE published_at IS NOT NULL")
    return {(int(str(alert)), int(str(version))) for alert, version in rows}


def _told(ears: Ears, since: int = 0) -> list[Version]:
    events = (told.body for told in ears.heard[since:] if told.topic.startswith("alert-events/"))
    return [(body["alert_id"], body["version"]) for body in events]


async def _rounds(plant: Plant, steps: list[str]) -> None:
    """Each round one device crosses its limit, or comes back, and the daemon dies at one step of that."""
    devices = [f"pump-{number}" for number in range((len(steps) + 1) // 2)]
    names = ",".join(f"('{name}','{name}','pump','hall')" for name in devices)
    plant.execute(f"INSERT INTO devices (device_id, name, type, location) VALUES {names}")
    plant.execute(
        "INSERT INTO threshold_classes (selector, metric_type, max_value, severity)"
        """ VALUES ('{"type": "pump"}', 'temperature', 80, 'warning')"""
    )
    port = plant.start_daemon()
    await plant.connected(port)
    plant.kill_daemon(port)
    url = plant.services.urls.mqtt_tools_url
    assert url is not None
    async with Client.connected(url) as listener, Client.connected(url) as client:
        for place, topic in enumerate(TOPICS, 1):
            await listener.subscribe(f"{ROOT}/{topic}", number=place)
        ears = Ears(listener)
        listening = asyncio.create_task(ears.listen())
        try:
            for number, step in enumerate(steps):
                started, marked, heard = time.monotonic(), _marked(plant), len(ears.heard)
                port = plant.start_daemon(*DYING, step)
                await client.publish(_telemetry(devices[number // 2], COOL if number % 2 else HOT))
                assert await plant.died(port), f"{step}: it never came to that"
                again = marked & set(_told(ears, heard))
                assert not again, f"{step}: told again although marked: {again}"
                print(f"round {number + 1}: died at {step!r} after {time.monotonic() - started:.1f} s")
            await _assert_all_told_once_marked(plant, ears, devices, len(steps))
        finally:
            listening.cancel()
            await asyncio.wait({listening})


async def _assert_all_told_once_marked(plant: Plant, ears: Ears, devices: list[str], rounds: int) -> None:
    port = plant.start_daemon()
    await plant.connected(port)
    deadline = time.monotonic() + 30
    while len(_marked(plant)) < rounds or plant.execute("SELECT 1 FROM alert_outbox WHERE published_at IS NULL"):
        assert time.monotonic() < deadline, plant.execute("SELECT alert_id, version, published_at FROM alert_outbox")
        await asyncio.sleep(0.05)
    rows = plant.execute(
        "SELECT d.device_id, count(*) FROM alerts a JOIN devices d ON d.id = a.device_id GROUP BY 1 ORDER BY 1"
    )
    assert rows == [(name, 1) for name in sorted(devices)], "each crossing has exactly one alert"
    versions: dict[str, set[Version]] = defaultdict(set)
    for told in ears.heard:
        if told.topic.startswith("alert-events/"):
            versions[told.body["device"]].add((told.body["alert_id"], told.body["version"]))
    for number, name in enumerate(devices):
        alerts = {alert for alert, _ in versions[name]}
        expected = 2 if 2 * number + 1 < rounds else 1
        assert (len(alerts), {version for _, version in versions[name]}) == (1, set(range(1, expected + 1))), name
    before = len(ears.heard)
    for _ in range(2):
        plant.kill_daemon(port)
        port = plant.start_daemon()
        await plant.connected(port)
        await ears.until_true(lambda: ears.standing.get("daemon/main", {}).get("status") == "online")
        await plant.settled(port)
    assert _told(ears, before) == [], "nobody is paged again after a restart"
    standing = {body["device"]: body["status"] for topic, body in ears.standing.items() if topic.startswith("alerts/")}
    assert standing == {name: "resolved" if 2 * number + 1 < rounds else "active" for number, name in enumerate(devices)}


async def test_every_step(plant: Plant) -> None:
    await _rounds(plant, list(STEPS))


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_hundred_rounds(plant: Plant) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"\nseed {seed}")
    steps = list(STEPS) * 8
    random.Random(seed).shuffle(steps)
    await _rounds(plant, steps[:100])
