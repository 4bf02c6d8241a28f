"""PostgreSQL freezes (SIGSTOP): its host still answers TCP, and nothing that we ask comes back."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Plant

BOUND_S = 4.0


@contextmanager
def _frozen(plant: Plant) -> Iterator[None]:
    """Stops the server and all its backends; each works in the data directory."""
    data = plant.directory / "services/postgres/data"
    links = [link for link in Path("/proc").glob("[0-9]*/cwd") if os.path.realpath(link) == str(data)]
    stopped = [int(link.parent.name) for link in links]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in stopped:
            os.kill(pid, number)
        if number is signal.SIGSTOP:
            yield


@pytest.mark.parametrize("rate", [0, 1_000], ids=["idle", "loaded"])
async def test_the_end_is_bounded(plant: Plant, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    monkeypatch.setenv("FACTORYD_SHUTDOWN_TIMEOUT_S", str(BOUND_S))
    port = plant.start_daemon()
    await plant.connected(port)
    async with plant.load(rate):
        await asyncio.sleep(1)
        with _frozen(plant):
            await asyncio.sleep(1.5)  # longer than it takes until the writer asks something
            process, started = plant._daemons.pop(port), time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) in {0, 1}
            took = time.monotonic() - started
    print(f"\nended after {took:.1f} s")
    assert took < BOUND_S + 0.5
    abandoned = [entry for entry in map(json.loads, plant.log(port).splitlines()) if entry["event"] == "drain_abandoned"]
    assert [entry["readings"] > 0 for entry in abandoned] == ([True] if rate else [])
    port = plant.start_daemon()
    await plant.connected(port)
    await plant.settled(port)
    plant.assert_nothing_lost_or_doubled()
