"""Rollouts against a real database: stages and their gates, limits, pauses, ends; every number counted from the rows."""

import random

import pytest

from storage.rollout_admin import Created, resume_rollout
from tests.integration.conftest import Database
from tests.integration.rollout_plant import START, RolloutPlant

NUMBERS = ("eligible", "pending", "in_progress", "succeeded", "faults", "rejected", "never_reached")
COUNTED = f"SELECT {', '.join(NUMBERS)} FROM ota_rollout_counts WHERE stage_no = %s"


@pytest.fixture
def plant(database: Database) -> RolloutPlant:
    return RolloutPlant(database)


def devices(created: Created, stage_no: int) -> list[str]:
    return list(created.plan.stages[stage_no].devices)


def under_way(plant: RolloutPlant) -> list[str]:
    return sorted(name for name, held in plant.stands("d.holds_device").items() if held)


class TestStages:
    async def test_one_after_the_other_until_all_have_ended(self, plant: RolloutPlant) -> None:
        plant.presses(10)
        created = plant.create(percents=(10, 50, 100))
        assert plant.sql("SELECT verify_mode, max_attempts, requested_by, count(*) FROM ota_deployments GROUP BY 1, 2, 3") == [
            ("version", 3, "system", 10)
        ]
        async with plant.engine() as engine:
            for number, standing in enumerate((["running", "pending", "pending"], ["passed", "running", "pending"])):
                await engine.look()
                assert plant.stages() == standing
                assert under_way(plant) == sorted(devices(created, number))
                plant.ends("succeeded", *devices(created, number))
            await engine.look()
            assert under_way(plant) == sorted(devices(created, 2))
            plant.ends("succeeded", *devices(created, 2)[1:])
            await engine.step()
            assert plant.stages() == ["passed", "passed", "running"]
            plant.ends("succeeded", *devices(created, 2))
            await engine.step()
        assert plant.stages() == ["passed", "passed", "passed"]
        assert plant.rollout() == ("completed", None)
        assert plant.sql("SELECT started_at, finished_at FROM ota_rollouts") == [(START, START)]

    async def test_thirty_percent_of_a_stage_offline_the_gate_passes_and_stragglers_follow(self, plant: RolloutPlant) -> None:
        plant.presses(20)
        created = plant.create(percents=(50, 100), unreachable_after_seconds=3600)
        away, there = devices(created, 0)[:3], devices(created, 0)[3:]
        plant.offline(*away)
        async with plant.engine() as engine:
            await engine.look()
            assert under_way(plant) == sorted(there)
            plant.ends("succeeded", *there)
            await engine.step()
            assert plant.stages() == ["running", "pending"], "they may yet come"
            plant.later(seconds=3599)
            await engine.step()
            assert plant.stages() == ["running", "pending"]
            plant.later(seconds=1)
            await engine.look()
            assert plant.stages() == ["passed", "running"]
            decision = plant.decision()
            assert (decision["verdict"], decision["reachable"], decision["counts"]["unreachable"]) == ("pass", 7, 3)
            assert decision["reason"] == "7 of 7 reachable ones succeeded"
            plant.online(away[0])
            await engine.look()
            assert under_way(plant) == sorted([away[0], *devices(created, 1)])
            plant.ends("succeeded", away[0], *devices(created, 1))
            await engine.step()
            assert plant.stages() == ["passed", "passed"]
            assert plant.rollout() == ("running", None), "two stragglers are left"
            plant.online(*away)
            await engine.look()
            assert under_way(plant) == sorted(away[1:])
            plant.ends("failed", *away[1:])
            await engine.step()
        assert plant.rollout() == ("completed", None)
        assert plant.decision() == decision, "what was decided stays"

    async def test_who_is_online_and_has_nothing_to_say_is_waited_for(self, plant: RolloutPlant) -> None:
        plant.presses(2)
        created = plant.create(max_in_progress=1, unreachable_after_seconds=60)
        first, second = devices(created, 0)
        async with plant.engine() as engine:
            await engine.look()
            plant.ends("succeeded", first)
            plant.later(hours=2)
            await engine.look()
        assert under_way(plant) == [second]
        assert plant.rollout() == ("running", None)
        assert plant.decision()["reachable"] == 2

    @pytest.mark.parametrize("on_error", ["pause", "abort"])
    async def test_one_dead_canary_of_one_stops(self, plant: RolloutPlant, on_error: str) -> None:
        plant.presses(10)
        created = plant.create(canary={"device": "press-7"}, on_error=on_error)
        assert devices(created, 0) == ["press-7"]
        async with plant.engine() as engine:
            await engine.look()
            assert under_way(plant) == ["press-7"]
            plant.ends("failed", "press-7")
            await engine.look()
        reason = "stage canary: 1 of 1 failed: 95 % can no longer succeed"
        assert plant.stages() == ["failed", "pending"]
        if on_error == "pause":
            assert plant.rollout() == ("paused", reason)
            assert set(plant.stands().values()) == {"failed", "queued"}
        else:
            await_over = dict.fromkeys(plant.stands(), "cancelled") | {"press-7": "failed"}
            assert plant.stands() == await_over
            assert plant.rollout() == ("aborted", reason)

    async def test_the_cap_of_failures(self, plant: RolloutPlant) -> None:
        plant.presses(100)
        created = plant.create(max_failures=2)
        async with plant.engine() as engine:
            await engine.look()
            plant.ends("timed_out", devices(created, 0)[0])
            await engine.step()
            assert plant.rollout() == ("running", None)
            plant.ends("rolled_back", devices(created, 0)[1])
            await engine.step()
        assert plant.rollout() == ("paused", "stage 100%: 2 failed, and max_failures is 2")

    async def test_the_recorded_numbers_equal_the_rows(self, plant: RolloutPlant) -> None:
        plant.presses(40)
        created = plant.create(percents=(25, 100), error_threshold_pct=60, success_threshold_pct=30, min_sample=10)
        chance = random.Random(3)
        outcomes = ["succeeded"] * 6 + ["failed", "rejected", "cancelled", "timed_out", "version_mismatch", "expired"]
        verdicts = []
        async with plant.engine() as engine:
            for stage in (0, 1):
                await engine.look()
                for name in devices(created, stage):
                    plant.ends(chance.choice(outcomes), name)
                    await engine.rollouts.step(plant.now)
                    decision = plant.decision(stage)
                    (row,) = plant.sql(COUNTED, stage)
                    counts = decision["counts"]
                    assert [counts[number] for number in NUMBERS] == list(row)
                    assert decision["finished"] == counts["succeeded"] + counts["faults"]
                    assert decision["reachable"] == counts["eligible"] - counts["never_reached"]
                    verdicts.append(decision["verdict"])
                    if decision["verdict"] != "wait":
                        break
        assert verdicts.count("pass") == 2
        assert len(verdicts) > 10

    async def test_after_a_soak_it_is_judged_again(self, plant: RolloutPlant) -> None:
        plant.presses(4)
        created = plant.create(percents=(50, 100), soak_seconds=1800)
        async with plant.engine() as engine:
            await engine.look()
            plant.ends("succeeded", *devices(created, 0))
            await engine.look()
            assert plant.rollout() == ("soaking", None)
            assert plant.stages() == ["soaking", "pending"]
            plant.later(seconds=1799)
            await engine.look()
            assert under_way(plant) == []
            plant.later(seconds=1)
            await engine.look()
            assert plant.stages() == ["passed", "running"]
            plant.ends("succeeded", *devices(created, 1))
            await engine.look()
            plant.sql("UPDATE ota_deployments SET status = 'failed', outcome = 'failed' WHERE stage_no = 1")
            await engine.step()
        assert plant.stages() == ["passed", "failed"]
        assert plant.rollout()[0] == "paused"

    async def test_nobody_reachable_pauses(self, plant: RolloutPlant) -> None:
        plant.presses(3)
        plant.offline("press-1", "press-2", "press-3")
        created = plant.create(unreachable_after_seconds=60)
        async with plant.engine() as engine:
            await engine.step()
            plant.later(seconds=59)
            await engine.step()
            assert plant.rollout() == ("running", None)
            plant.later(seconds=1)
            await engine.step()
            reason = "stage 100%: nobody reachable: none of the 3 devices that are left was seen"
            assert plant.rollout() == ("paused", reason)
            assert plant.decision()["verdict"] == "nobody"
            resume_rollout(plant.settings, created.id, plant.now, accept_failures=False)
            plant.later(seconds=59)
            await engine.step()
            assert plant.rollout() == ("running", None), "they have the whole time again"

    async def test_a_stage_that_people_begin(self, plant: RolloutPlant) -> None:
        plant.presses(2)
        created = plant.create(percents=(50, 100), on_stage_success="pause")
        async with plant.engine() as engine:
            await engine.look()
            plant.ends("succeeded", *devices(created, 0))
            await engine.look()
            assert plant.rollout() == ("paused", "stage 50% passed; factoryd rollout resume begins stage 100%")
            assert under_way(plant) == []
            resume_rollout(plant.settings, created.id, plant.now, accept_failures=False)
            await engine.look()
        assert under_way(plant) == devices(created, 1)
