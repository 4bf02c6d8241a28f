"""The database stops for a while; the broker is killed and loses what it had not saved; a standby takes over."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Plant


async def _outage(plant: Plant, rate: float, seconds: float) -> None:
    assert plant.services.postgres is not None
    port = plant.start_daemon()
    await plant.connected(port)
    async with plant.load(rate):
        await asyncio.sleep(2)
        before = (await plant.metrics(port))["process_resident_memory_bytes"]
        plant.services.postgres.crash()
        await asyncio.sleep(seconds)
        during = (await plant.metrics(port))["process_resident_memory_bytes"]
        await plant.services.postgres.astart()
        assert await plant.connected(port, timeout_s=60) < 5
    started = time.monotonic()
    await plant.settled(port, timeout_s=120)
    after = (await plant.metrics(port))["process_resident_memory_bytes"]
    print(
        f"\n{plant.ledger.count} readings, outage {seconds} s at {rate}/s: caught up {time.monotonic() - started:.1f} s after"
        f" the load ended; memory {before / 1e6:.0f} → {during / 1e6:.0f} → {after / 1e6:.0f} MB"
    )
    plant.assert_nothing_lost_or_doubled()
    await plant.assert_accounted_for(port)
    assert during < before * 1.25, "memory grew while the database was away"
    assert after < 200e6


async def test_database_away_for_a_moment(plant: Plant) -> None:
    await _outage(plant, rate=2_000, seconds=4)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_database_away_for_a_minute(plant: Plant) -> None:
    await _outage(plant, rate=5_000, seconds=60)


async def test_broker_killed_between_saves(plant: Plant) -> None:
    """What was acknowledged before the last completed save is stored; what is missing is what our seq gaps report."""
    broker = plant.services.mosquitto
    assert broker is not None
    port = plant.start_daemon()
    await plant.connected(port)
    plant.kill_daemon(port, signal.SIGTERM)
    async with plant.load(500):
        await asyncio.sleep(1)
    saved_at = await _save(broker.pid, Path(broker.log_path).parent)
    async with plant.load(500):
        await asyncio.sleep(1)
        broker.crash()
        await broker.astart()
    port = plant.start_daemon()
    await plant.connected(port)
    async with plant.load(500):  # the devices go on: only a later message shows a gap
        await asyncio.sleep(0.5)
    await plant.settled(port)
    stored = plant.stored()
    lost = {n for numbers in plant.ledger.acknowledged.values() for n in numbers if n not in stored}
    early = [n for numbers in plant.ledger.acknowledged.values() for n, at in numbers.items() if at < saved_at]
    assert early
    assert not lost.intersection(early), "lost although the broker had saved it"
    reported = {
        (str(device), seq)
        for device, low, high in plant.execute(
            "SELECT d.device_id, lower(r), upper(r) FROM device_sequences s JOIN devices d ON d.id = s.device_id,"
            " unnest(s.missing) AS r"
        )
        for seq in range(int(str(low)), int(str(high)))
    }
    assert reported == {plant.ledger.sequence_of[n] for n in lost if n in plant.ledger.sequence_of}
    print(f"\n{len(early)} acknowledged before the save, all stored; {len(lost)} lost, {len(reported)} of them seen by seq")


async def _save(pid: int, directory: Path) -> float:
    """Makes mosquitto save now (SIGUSR1); returns the epoch seconds at which we asked, once the file is there."""
    asked = time.time()
    os.kill(pid, signal.SIGUSR1)
    while not any(file.stat().st_mtime >= asked - 0.01 for file in directory.rglob("mosquitto.db")):
        await asyncio.sleep(0.02)
    return asked


async def test_standby_takes_over(plant: Plant) -> None:
    active = plant.start_daemon()
    await plant.connected(active)
    standby = plant.start_daemon()
    async with plant.load(1_000):
        await plant.answering(standby)
        assert (await plant.metrics(standby))['factoryd_mqtt_connected{session="telemetry"}'] == 0
        plant.kill_daemon(active)
        took = await plant.connected(standby, timeout_s=10)
        await asyncio.sleep(0.5)
    await plant.settled(standby)
    print(f"\ntook over after {took:.1f} s")
    assert took < 5
    plant.assert_nothing_lost_or_doubled()


async def test_orderly_end_leaves_nothing_unacknowledged(plant: Plant) -> None:
    """SIGTERM under load: exit 0, and the readings that come again afterwards are few or none."""
    port = plant.start_daemon()
    await plant.connected(port)
    async with plant.load(1_000):
        await asyncio.sleep(1)
        started = time.monotonic()
        process = plant._daemons[port]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
        assert time.monotonic() - started < 10
    del plant._daemons[port]
    port = plant.start_daemon()
    await plant.connected(port)
    await plant.settled(port)
    plant.assert_nothing_lost_or_doubled()
