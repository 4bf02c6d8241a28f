"""kill -9 at each step of dispatch and of a report: one round a step in `make test`, a hundred in `make faults`.

Each round a device is to be updated; the next round's daemon goes on with what the last one left. No update is lost, begun
twice or installed twice, and none costs an attempt.
"""

import random
import time

import pytest

from simulator.artifact_server import ArtifactServer
from tests.faults.campaign import TARGET, Campaign, Plan
from tests.faults.conftest import Plant
from tests.faults.dying_dispatch import STEPS

DYING = ("-m", "tests.faults.dying_dispatch")


async def _rounds(plant: Plant, files: ArtifactServer, steps: list[str]) -> None:
    campaign = Campaign(plant, Plan(len(steps)), files.url, seed=1)
    async with campaign.fleet() as fleet:
        port = plant.start_daemon()
        await plant.connected(port)
        fleet.switch_on()
        await campaign.until("SELECT count(*) FROM ota_device_state", len(steps))
        plant.kill_daemon(port)
        for number, (step, name) in enumerate(zip(steps, campaign.names, strict=True), 1):
            started = time.monotonic()
            campaign.order_by_hand([name])
            port = plant.start_daemon(*DYING, step)
            assert await plant.died(port), f"{step}: it never came to that"
            print(f"round {number}: died at {step!r} after {time.monotonic() - started:.1f} s")
        plant.start_daemon()
        await campaign.until("SELECT count(*) FROM ota_deployments WHERE outcome IS NULL", 0)
    rows = plant.execute("SELECT outcome, attempt, count(*) FROM ota_deployments GROUP BY 1, 2")
    assert rows == [("succeeded", 1, len(steps))]
    assert set(fleet.versions().values()) == {TARGET}
    assert {counts.total() for counts in fleet.installs().values()} == {1}
    assert campaign.broken == []


async def test_every_step(plant: Plant, files: ArtifactServer) -> None:
    await _rounds(plant, files, list(STEPS))


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_hundred_rounds(plant: Plant, files: ArtifactServer) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"\nseed {seed}")
    steps = list(STEPS) * 9
    random.Random(seed).shuffle(steps)
    await _rounds(plant, files, steps[:100])
