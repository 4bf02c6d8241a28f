"""Firmware for a fleet while everything falls over: the short one in `make test`, 500 devices in `make faults`."""

import time
from collections import Counter

import pytest

from simulator.artifact_server import ArtifactServer
from tests.faults.campaign import FACTORY, TARGET, Campaign, Plan
from tests.faults.conftest import Plant

GOOD = {"succeeded", "already_installed", "late_success"}


async def _campaign(plant: Plant, files: ArtifactServer, plan: Plan, seed: int) -> None:
    started = time.monotonic()
    campaign = Campaign(plant, plan, files.url, seed)
    fleet = await campaign.run()
    ends = campaign.ends()
    print(f"\nseed {seed}: {time.monotonic() - started:.0f} s; {sum(ends.values(), start=Counter())}")
    assert campaign.broken == []
    versions, installs = fleet.versions(), fleet.installs()
    for name in campaign.names:
        right = campaign.expected.get(name)
        if right is not None:
            assert (set(ends[name]), versions[name]) == ({right}, FACTORY), name
        else:
            assert ends[name].total() - ends[name]["superseded"] >= 1, name
            assert set(ends[name]) <= {*GOOD, "superseded"}, (name, ends[name])
            assert versions[name] == TARGET, name
        assert installs[name].total() == (0 if right == "failed" else 1), (name, installs[name])
    _assert_gates_agree_with_rows(campaign)


def _assert_gates_agree_with_rows(campaign: Campaign) -> None:
    """A row is committed within a second of its `completed_at`; what is not within that second has to be equal."""
    for stage, name, started_at, decided_at, decision, planned in campaign.stages():
        assert started_at is not None, f"stage {name} began"
        counts = decision["counts"]
        before, after = campaign.counted(stage, decided_at, 1), campaign.counted(stage, decided_at)
        for place, kind in enumerate(("succeeded", "faults")):
            assert before[place] <= counts[kind] <= after[place], (name, kind, before, counts, after)
        assert decision["finished"] == counts["succeeded"] + counts["faults"]
        assert decision["reachable"] == counts["eligible"] - counts["unreachable"] - counts["never_reached"]
        assert counts["eligible"] <= planned


async def test_forty_devices(plant: Plant, files: ArtifactServer) -> None:
    plan = Plan(40, "5,20,50,100", kills=2, broker_restarts=(2,), pace_s=0.02, success_threshold=75)
    await _campaign(plant, files, plan, seed=7)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_five_hundred_devices(plant: Plant, files: ArtifactServer) -> None:
    seed = time.time_ns() % 1_000_000
    plan = Plan(500, "1,10,50,100", kills=10, broker_restarts=(3, 7), pace_s=0.2)
    await _campaign(plant, files, plan, seed)
