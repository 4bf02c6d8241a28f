"""What alerts remember: over a restart, over a broker that has forgotten, and what late readings say of the past."""

import json
from datetime import UTC, datetime, timedelta

import psycopg

from console.health import State
from storage.leader import LOCK
from tests.e2e.alarms import listening, reading, threshold
from tests.e2e.client import Message
from tests.e2e.conftest import ROOT, Plant, telemetry, until


async def test_active_over_a_restart_pages_nobody_again(plant: Plant) -> None:
    await plant.register("press-1")
    number = await threshold(plant, "press-1", max_value=80)
    topic = f"alerts/press-1/temperature/{number}"
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running():
            await client.publish(*telemetry("press-1", reading(90.0)))
            await ears.until(1)
        for _ in range(2):
            async with plant.running() as running:
                await client.publish(*telemetry("press-1", reading(91.0)))
                await running.until_settled(1)
        assert ears.standing[topic]["status"] == "active"
        await client.publish(*telemetry("press-1", reading(70.0)))
        async with plant.running():
            told = await ears.until(2)
    assert [(message.body["status"], message.body["version"]) for message in told] == [("active", 1), ("resolved", 2)]
    assert await plant.value("SELECT count(*) FROM alerts") == 1


async def test_the_daemon_was_down_over_the_crossing(plant: Plant) -> None:
    """Longer than late_after_s: what is still true is raised, once."""
    await plant.register("press-2", "press-3")
    for name in ("press-2", "press-3"):
        await threshold(plant, name, max_value=80)
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running(alerting={"late_after_s": 1}) as running:
            for name in ("press-2", "press-3"):
                await client.publish(*telemetry(name, reading(70.0, age_s=0.5)))
            await running.until_settled(2)
        for age_s, hot, cool in ((1000, 90.0, 90.0), (900, 91.0, 70.0)):
            await client.publish(*telemetry("press-2", reading(hot, age_s)), *telemetry("press-3", reading(cool, age_s)))
        past = "now() - interval '1 hour'"  # when we were there last
        await plant.sql(f"UPDATE device_latest SET recorded_at = {past}, evaluated_at = {past}, received_at = {past}")
        async with plant.running(alerting={"late_after_s": 1}):
            (raised,) = await ears.until(1)
            assert (raised.body["device"], raised.body["value"]) == ("press-2", 91.0)
            (over,) = await ears.until(1, "alert-history/")
    assert (over.body["device"], over.body["origin"], over.body["status"]) == ("press-3", "retrospective", "resolved")
    assert len(ears.events()) == 1


async def test_the_daemon_was_down_over_the_recovery(plant: Plant) -> None:
    await plant.register("press-4")
    await threshold(plant, "press-4", max_value=80)
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running():
            await client.publish(*telemetry("press-4", reading(90.0)))
            await ears.until(1)
        await client.publish(*telemetry("press-4", reading(70.0), reading(71.0)))
        async with plant.running():
            assert (await ears.until(2))[-1].body["resolution"] == "recovered"


async def test_late_readings_show_an_alert_of_the_past_only(plant: Plant) -> None:
    await plant.register("press-5")
    await threshold(plant, "press-5", max_value=80)
    async with listening(plant) as ears, plant.client() as client, plant.running() as running:
        await client.publish(*telemetry("press-5", reading(70.0)))
        await running.until_settled(1)
        await client.publish(*telemetry("press-5", reading(99.0, 60), reading(95.0, 120), reading(70.0, 30)))
        (past,) = await ears.until(1, "alert-history/press-5")
        assert (past.body["origin"], past.body["status"], past.body["peak_value"]) == ("retrospective", "resolved", 99.0)
        await client.publish(*telemetry("press-5", reading(96.0, 180)))
        *_, corrected = await ears.until(2, "alert-history/press-5")
        assert corrected.body["alert_id"] == past.body["alert_id"]
        assert corrected.body["triggered_at"] < past.body["triggered_at"]
        await plant.until_sql("SELECT count(*) FROM late_windows", 0)
    assert (ears.events(), [told for told in ears.heard if told.topic.startswith("alerts/")]) == ([], [])
    assert await plant.sql("SELECT status::text, origin FROM alerts") == [("resolved", "retrospective")]


async def test_duplicates_change_nothing(plant: Plant) -> None:
    await plant.register("press-6")
    await threshold(plant, "press-6", max_value=80)
    hot, cool = reading(90.0, 2), reading(70.0, 1)
    async with listening(plant) as ears, plant.client() as client, plant.running() as running:
        await client.publish(*telemetry("press-6", hot, cool))
        await ears.until(2)
        await client.publish(*telemetry("press-6", hot, cool, hot, hot))
        await running.until_settled(6)
        assert len(await ears.until(2)) == 2
        assert await plant.value("SELECT count(*) FROM late_windows") == 0
    assert await plant.value("SELECT count(*) FROM alerts") == 1


async def test_the_brokers_memory_is_mended(plant: Plant) -> None:
    """A state that was lost comes back; one that nobody stands behind goes; a new subscriber sees the present."""
    await plant.register("press-7")
    number = await threshold(plant, "press-7", max_value=80)
    topic, ghost = f"alerts/press-7/temperature/{number}", "alerts/press-9/rpm/77"
    async with plant.client() as client:
        async with plant.running(), listening(plant) as ears:
            await client.publish(*telemetry("press-7", reading(90.0)))
            await ears.until(1)
        lost = Message(f"{ROOT}/{topic}", b"", retain=True)
        stray = Message(f"{ROOT}/{ghost}", b'{"alert_id":999,"version":1,"status":"active"}', retain=True)
        await client.publish(lost, stray)
        async with listening(plant) as ears:
            assert topic not in ears.standing
            async with plant.running():
                await ears.until_true(lambda: topic in ears.standing and ghost not in ears.standing)
            assert ears.standing[topic]["status"] == "active"
            assert ears.events() == [], "a state that is mended is no event"


async def test_resolved_states_leave_the_broker_after_their_time(plant: Plant) -> None:
    await plant.register("press-8")
    number = await threshold(plant, "press-8", max_value=80)
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running():
            await client.publish(*telemetry("press-8", reading(90.0), reading(70.0)))
            await ears.until(2)
        topic = f"alerts/press-8/temperature/{number}"
        assert ears.standing[topic]["status"] == "resolved"
        await plant.sql("UPDATE alerts SET resolved_at = now() - interval '25 hours', version = version + 1, noticed = true")
        async with plant.running():
            await ears.until_true(lambda: topic not in ears.standing)


async def test_a_standby_is_silent_until_it_leads(plant: Plant) -> None:
    await plant.register("press-10")
    await threshold(plant, "press-10", max_value=80)
    async with listening(plant) as ears, plant.client() as client:
        async with await psycopg.AsyncConnection.connect(plant.database.admin_url, autocommit=True) as leader:
            await leader.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            async with plant.begun() as running:
                await until(lambda: running.daemon.health.state is State.STANDBY)
                assert "daemon/main" not in ears.standing or ears.standing["daemon/main"]["status"] == "offline"
                await leader.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
                await running.until_ready()
                await client.publish(*telemetry("press-10", reading(90.0)))
                await ears.until(1)
                assert ears.standing["daemon/main"]["status"] == "online"
        await ears.until_true(lambda: ears.standing["daemon/main"]["status"] == "offline")


async def test_the_clock_is_ahead_and_then_put_right_in_alarm(plant: Plant) -> None:
    """By 4 minutes: taken as it comes; by 2 hours: stored at its receipt. Neither blinds us to what comes after."""
    for name, ahead_s in (("press-11", 240), ("press-12", 7200)):
        await plant.register(name)
        await threshold(plant, name, max_value=80)
        async with listening(plant) as ears, plant.client() as client, plant.running():
            ahead = (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()
            await client.publish(*telemetry(name, json.dumps({"recorded_at": ahead, "temperature": 90}).encode()))
            await ears.until(1)
            await client.publish(*telemetry(name, reading(70.0)))
            assert [message.body["status"] for message in await ears.until(2)] == ["active", "resolved"]
