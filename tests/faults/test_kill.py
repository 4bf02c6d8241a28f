"""kill -9 at random moments under load. 5 rounds in `make test`, 50 in `make faults`; every seed is printed."""

import asyncio
import os
import random
import time

import pytest

from tests.faults.conftest import Plant

RATE = 2_000.0


async def _rounds(plant: Plant, seed: int, rounds: int) -> None:
    """Kills the daemon or PostgreSQL at a random moment, `rounds` times, while the publishers go on."""
    print(f"\nseed {seed}, {rounds} rounds")
    chance = random.Random(seed)
    port = plant.start_daemon()
    await plant.connected(port)
    async with plant.load(RATE):
        for number in range(rounds):
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            victim = chance.choice(["daemon", "postgres"])
            started = time.monotonic()
            if victim == "daemon":
                await asyncio.to_thread(plant.kill_daemon, port)
                await asyncio.sleep(chance.uniform(0, 0.3))
                port = plant.start_daemon()
            else:
                assert plant.services.postgres is not None
                plant.services.postgres.crash()
                await asyncio.sleep(chance.uniform(0, 0.5))
                await plant.services.postgres.astart()
            await plant.connected(port, timeout_s=60)
            print(f"round {number + 1}: killed {victim}, connected again after {time.monotonic() - started:.1f} s")
    await plant.settled(port, timeout_s=120)
    print(f"{plant.ledger.count} readings acknowledged")
    plant.assert_nothing_lost_or_doubled()


async def test_five_rounds(plant: Plant) -> None:
    await _rounds(plant, seed=20_261_122, rounds=5)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_fifty_rounds(plant: Plant) -> None:
    await _rounds(plant, seed=int(os.environ.get("FAULTS_SEED", time.time_ns() % 1_000_000)), rounds=50)
