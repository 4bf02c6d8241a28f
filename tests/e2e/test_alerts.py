"""Alerts by the whole daemon, on a real broker: raised, told, resolved, remembered."""

import json
from datetime import UTC, datetime, timedelta

from tests.e2e.alarms import listening, threshold
from tests.e2e.client import Message
from tests.e2e.conftest import ROOT, Plant, telemetry


def reading(value: float, age_s: float = 0.0, metric: str = "temperature") -> bytes:
    moment = datetime.now(UTC) - timedelta(seconds=age_s)
    return json.dumps({"recorded_at": moment.isoformat(), metric: value}).encode()


async def test_from_the_crossing_to_the_end(plant: Plant) -> None:
    await plant.register("press-1")
    number = await threshold(plant, "press-1", max_value=80)
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-1", reading(71.5), reading(92.4)))
        (raised,) = await ears.until(1)
        assert raised.topic == "alert-events/warning/press-1"
        assert raised.body["status"] == "active"
        await client.publish(*telemetry("press-1", reading(93.0), reading(70.0)))
        states = await ears.until(2, "alerts/")
        assert [(told.topic, told.body["status"], told.body["version"]) for told in states] == [
            (f"alerts/press-1/temperature/{number}", "active", 1),
            (f"alerts/press-1/temperature/{number}", "resolved", 2),
        ]
        assert states[1].body["peak_value"] == 93.0
        await ears.until(2)
        await plant.until_sql("SELECT count(*) FROM alert_outbox WHERE published_at IS NULL", 0)
    assert await plant.sql("SELECT status::text, version, value, peak_value, resolution, noticed FROM alerts") == [
        ("resolved", 2, 70.0, 93.0, "recovered", True)
    ]
    assert await plant.sql("SELECT phase, cardinality(changes) FROM rule_state") == [("normal", 2)]


async def test_a_threshold_is_in_effect_at_once_and_holds_the_last_value_against_it(plant: Plant) -> None:
    await plant.register("press-2")
    async with listening(plant) as ears, plant.client() as client, plant.running() as running:
        await client.publish(*telemetry("press-2", reading(90.0)))
        await running.until_settled(1)
        await threshold(plant, "press-2", max_value=80)
        (raised,) = await ears.until(1, within_s=1.0)
        assert raised.body["value"] == 90.0
        await plant.sql("UPDATE alert_thresholds SET max_value = 95")
        assert [told.body["status"] for told in await ears.until(2, within_s=1.0)] == ["active", "resolved"]
        await plant.sql("UPDATE alert_thresholds SET max_value = 80")
        await ears.until(3, within_s=1.0)
        await plant.sql("UPDATE alert_thresholds SET enabled = false")
        told = await ears.until(4, within_s=1.0)
        assert told[-1].body["resolution"] == "threshold_disabled"
        await plant.sql("UPDATE alert_thresholds SET enabled = true")
        await ears.until(5, within_s=1.0)
        await plant.sql("DELETE FROM alert_thresholds")
        told = await ears.until(6, within_s=2.0)
        assert told[-1].body["resolution"] == "threshold_deleted"


async def test_operators_over_mqtt(plant: Plant) -> None:
    await plant.register("press-3")
    await threshold(plant, "press-3", max_value=80)
    await plant.sql(
        "INSERT INTO users (login, email, password_hash, name, role) VALUES ('ada', 'a@x.y', '!', 'Ada', 'operator')"
    )
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-3", reading(90.0)))
        (raised,) = await ears.until(1)
        act = {"action": "acknowledge", "alert_id": raised.body["alert_id"], "request_id": "r1"}
        await client.publish(Message(f"{ROOT}/operators/ada/commands", json.dumps(act).encode()))
        told = await ears.until(2)
        assert (told[-1].body["status"], told[-1].body["acknowledged_by"]) == ("acknowledged", "ada")
        (answer,) = await ears.until(1, "operators/ada/responses")
        assert (answer.body["outcome"], answer.body["request_id"]) == ("done", "r1")
        await client.publish(Message(f"{ROOT}/operators/eve/commands", json.dumps(act).encode()))
        (refused,) = await ears.until(1, "operators/eve/responses")
        assert refused.body["outcome"] == "refused"
