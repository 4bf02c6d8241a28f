"""Rollouts against a real database: limits, windows, what people do to them, many at once."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from storage.refusals import Conflict
from storage.rollout_admin import Created, abort_rollout, pause_rollout, resume_rollout, start_rollout
from tests.integration.conftest import Database
from tests.integration.rollout_plant import START, VERSION, RolloutPlant

QUARANTINED = """
    INSERT INTO ota_device_state (device_id, faults, faulty_version_id)
    SELECT d.id, 2, v.id FROM devices d, ota_versions v WHERE d.device_id = %s"""
BACKOFF = """
    UPDATE ota_deployments SET phase = 'backoff', status = 'pending', holds_device = false, publish_pending = NULL,
        next_action_at = %s WHERE holds_device"""
LIVE_TWICE = "SELECT count(*) FROM ota_deployments WHERE holds_device GROUP BY device_id HAVING count(*) > 1"


@pytest.fixture
def plant(database: Database) -> RolloutPlant:
    return RolloutPlant(database)


def devices(created: Created, stage_no: int) -> list[str]:
    return list(created.plan.stages[stage_no].devices)


def under_way(plant: RolloutPlant) -> list[str]:
    return sorted(name for name, held in plant.stands("d.holds_device").items() if held)


class TestLimits:
    async def test_slots(self, plant: RolloutPlant) -> None:
        plant.presses(6)
        plant.create(max_in_progress=2)
        async with plant.engine() as engine:
            await engine.look()
            first = under_way(plant)
            assert len(first) == 2
            assert await engine.why_closed() == {1: "slot"}
            assert engine.sample("rollout_slots", rollout="1", kind="used") == 2
            plant.begins(first[0], phase="deferred")
            await engine.look()
            assert len(under_way(plant)) == 3, "who has put it off takes no slot"

    async def test_quarantine_and_backoff_never_eat_slots(self, plant: RolloutPlant) -> None:
        plant.presses(6)
        created = plant.create(max_in_progress=1)
        first, second, third, *_ = devices(created, 0)
        plant.sql(QUARANTINED, first)
        async with plant.engine() as engine:
            await engine.look()
            assert under_way(plant) == [second]
            plant.sql(BACKOFF, plant.now + timedelta(hours=1))
            await engine.look()
            assert under_way(plant) == [third]

    async def test_so_many_a_minute(self, plant: RolloutPlant) -> None:
        plant.presses(6)
        plant.create(max_per_minute=2)
        async with plant.engine() as engine:
            await engine.look()
            assert len(under_way(plant)) == 2
            assert await engine.why_closed() == {1: "rate"}
            plant.later(seconds=59)
            await engine.look()
            assert len(under_way(plant)) == 2
            plant.later(seconds=1)
            await engine.look()
            assert len(under_way(plant)) == 4

    async def test_a_window(self, plant: RolloutPlant) -> None:
        plant.presses(1)
        plant.create(window="mon 22:00-23:00 Europe/Berlin")
        async with plant.engine() as engine:
            await engine.look()
            assert plant.rollout() == ("running", None)
            assert await engine.why_closed() == {1: "window"}
            assert engine.sample("rollout_blocked", rollout="1", reason="window") == 1
            plant.now = datetime(2026, 3, 2, 20, 59, 59, tzinfo=UTC)
            await engine.look()
            assert under_way(plant) == []
            plant.later(seconds=1)
            await engine.look()
            assert under_way(plant) == ["press-1"]

    async def test_a_window_that_nobody_can_read_is_never_open(self, plant: RolloutPlant) -> None:
        plant.presses(1)
        plant.create()
        plant.sql("UPDATE ota_rollouts SET \"window\" = 'at night'")
        async with plant.engine() as engine:
            await engine.look()
            assert await engine.why_closed() == {1: "window"}

    async def test_it_begins_at_its_time_or_when_people_say_so(self, plant: RolloutPlant) -> None:
        plant.presses(1)
        created = plant.create(start_at=START + timedelta(hours=1))
        async with plant.engine() as engine:
            plant.later(seconds=3599)
            await engine.look()
            assert plant.rollout() == ("scheduled", None)
            assert under_way(plant) == []
            start_rollout(plant.settings, created.id, plant.now)
            await engine.look()
            assert under_way(plant) == ["press-1"]

    async def test_at_its_end_what_has_not_begun_expires_and_what_has_goes_on(self, plant: RolloutPlant) -> None:
        plant.presses(4)
        plant.create(end_at=START + timedelta(hours=1))
        async with plant.engine() as engine:
            plant.offline("press-1", "press-2")
            await engine.look()
            plant.ends("succeeded", "press-3")
            plant.begins("press-4")
            plant.later(hours=1)
            await engine.look()
            assert plant.rollout() == ("completed", None)
            expected = {"press-1": "expired", "press-2": "expired", "press-3": "succeeded", "press-4": "downloading"}
            assert plant.stands() == expected
            plant.online("press-1", "press-2")
            await engine.look()
            assert plant.stands() == expected


class TestPeople:
    async def test_paused_and_resumed(self, plant: RolloutPlant) -> None:
        plant.presses(4)
        created = plant.create(max_in_progress=2)
        async with plant.engine() as engine:
            await engine.look()
            going = under_way(plant)
            pause_rollout(plant.settings, created.id, "paused by anna: night shift", plant.now)
            plant.ends("succeeded", *going)
            await engine.look()
            assert plant.rollout() == ("paused", "paused by anna: night shift")
            assert under_way(plant) == [], "nothing new is sent"
            with pytest.raises(Conflict, match="is paused: there is nothing to pause"):
                pause_rollout(plant.settings, created.id, "again", plant.now)
            resume_rollout(plant.settings, created.id, plant.now, accept_failures=False)
            await engine.look()
            assert plant.rollout() == ("running", None)
            assert len(under_way(plant)) == 2
            assert plant.decision()["counts"]["succeeded"] == 2

    async def test_failures_must_be_accepted_in_words(self, plant: RolloutPlant) -> None:
        plant.presses(10)
        created = plant.create(percents=(50, 100))
        broken, *good = devices(created, 0)
        async with plant.engine() as engine:
            await engine.look()
            plant.ends("failed", broken)
            await engine.step()
            assert plant.stages() == ["failed", "pending"]
            with pytest.raises(Conflict, match="--accept-failures goes on all the same"):
                resume_rollout(plant.settings, created.id, plant.now, accept_failures=False)
            assert plant.rollout()[0] == "paused"
            resume_rollout(plant.settings, created.id, plant.now, accept_failures=True)
            await engine.step()
            assert plant.stages() == ["running", "pending"]
            plant.ends("succeeded", *good)
            await engine.look()
            assert plant.stages() == ["passed", "running"]
            assert plant.decision()["accepted"] == {"faults": 1, "rejected": 0}
            plant.ends("failed", devices(created, 1)[0])
            await engine.step()
            assert plant.stages() == ["passed", "failed"], "what was accepted was accepted of that stage"

    async def test_abort_lets_finish_what_writes_its_flash(self, plant: RolloutPlant) -> None:
        plant.presses(4)
        created = plant.create()
        first, second, third, fourth = devices(created, 0)
        plant.offline(first)
        async with plant.engine() as engine:
            await engine.look()
            plant.begins(second, phase="downloading")
            plant.begins(third, phase="installing")
            plant.ends("succeeded", fourth)
            abort_rollout(plant.settings, created.id, "aborted by anna", plant.now)
            await engine.look()
            assert plant.rollout() == ("aborting", "aborted by anna")
            assert plant.stands() == {first: "cancelled", second: "downloading", third: "installing", fourth: "succeeded"}
            asked = plant.sql("SELECT cancel_reason, publish_pending FROM ota_deployments WHERE cancel_deadline_at IS NOT NULL")
            assert asked == [(f"rollout {created.id} aborted: aborted by anna", "cancel")]
            plant.ends("cancelled", second)
            await engine.look()
            assert plant.rollout()[0] == "aborting"
            plant.ends("succeeded", third)
            await engine.look()
        assert plant.rollout() == ("aborted", "aborted by anna")
        with pytest.raises(Conflict, match="is aborted already"):
            abort_rollout(plant.settings, created.id, "again", plant.now)


class TestManyAtOnce:
    async def test_two_instances_never_two_live_rows(self, plant: RolloutPlant) -> None:
        plant.presses(30)
        created = plant.create(percents=(50, 100), max_per_minute=20)
        async with plant.engine() as one, plant.engine() as other:
            for stage in (0, 1):
                for _ in range(4):
                    await asyncio.gather(one.dispatcher.look(), other.dispatcher.look())
                    assert plant.sql(LIVE_TWICE) == []
                plant.later(minutes=1)
                assert under_way(plant) == sorted(devices(created, stage))
                plant.ends("succeeded", *devices(created, stage))
            await asyncio.gather(one.step(), other.step())
            await one.step()
            passed = sum(engine.sample("gate_decisions_total", verdict="pass") or 0 for engine in (one, other))
        assert plant.rollout() == ("completed", None)
        assert passed == 2, "each gate has passed once"
        assert plant.sql("SELECT DISTINCT sends, attempt FROM ota_deployments") == [(1, 1)]

    async def test_a_rollout_that_somebody_else_is_at_has_its_turn_later(self, plant: RolloutPlant) -> None:
        plant.presses(1)
        plant.create()
        async with plant.engine() as engine:
            with psycopg.connect(plant.database.admin) as other:
                other.execute("SELECT FROM ota_rollouts FOR UPDATE")
                assert not await engine.rollouts.step(plant.now)
                assert plant.stages() == ["pending"]
            assert await engine.rollouts.step(plant.now)
            assert plant.stages() == ["running"]

    async def test_a_device_is_in_one_rollout_at_a_time(self, plant: RolloutPlant) -> None:
        plant.presses(2)
        plant.create(selector={"device": "press-1"}, name="the first")
        created = plant.create()
        assert created.plan.eligibility.excluded == {"other_rollout": ["press-1"]}
        assert plant.sql("SELECT excluded FROM ota_rollouts WHERE id = %s", created.id) == [({"other_rollout": ["press-1"]},)]
        with pytest.raises(Conflict, match=f"firmware {VERSION} is for none of the devices"):
            plant.create()


async def test_figures(plant: RolloutPlant) -> None:
    plant.presses(10)
    created = plant.create(percents=(50, 100), max_in_progress=5)
    async with plant.engine() as engine:
        await engine.look()
        plant.ends("succeeded", *devices(created, 0))
        await engine.look()
        plant.ends("succeeded", *devices(created, 1)[:2])
        await engine.rollouts.step(plant.now)
        assert engine.sample("rollouts", status="running") == 1
        assert engine.sample("rollout_stage", rollout="1") == 1
        assert engine.sample("rollout_stage_ratio", rollout="1", kind="success") == 0.4
        assert engine.sample("rollout_stage_unreachable", rollout="1") == 0
        assert engine.sample("rollout_slots", rollout="1", kind="limit") == 5
        assert engine.sample("gate_decisions_total", verdict="pass") == 1
        plant.ends("succeeded", *devices(created, 1))
        await engine.step()
        await engine.step()
        assert engine.sample("rollout_stage", rollout="1") is None, "over"
        assert engine.sample("rollouts", status="running") == 0
