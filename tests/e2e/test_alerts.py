"""Alerts by the whole daemon, on a real broker: raised, told, resolved, remembered."""

import pytest

from tests.e2e.alarms import command, listening, person, reading, threshold
from tests.e2e.client import Message
from tests.e2e.conftest import ROOT, Plant, telemetry, until


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
    await person(plant, "ada")
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-3", reading(90.0)))
        (raised,) = await ears.until(1)
        number = raised.body["alert_id"]
        await client.publish(command("ada", "acknowledge", number, request_id="r1"))
        told = await ears.until(2)
        assert (told[-1].body["status"], told[-1].body["acknowledged_by"]) == ("acknowledged", "ada")
        (answer,) = await ears.until(1, "operators/ada/responses")
        assert (answer.body["outcome"], answer.body["request_id"]) == ("done", "r1")
        await client.publish(command("eve", "acknowledge", number))
        (refused,) = await ears.until(1, "operators/eve/responses")
        assert refused.body["outcome"] == "refused"
        await client.publish(command("ada", "resolve", number, note="sensor changed"))
        told = await ears.until(3)
        assert told[-1].body["resolution"] == "operator"
        await client.publish(*telemetry("press-3", reading(91.0)))
        told = await ears.until(4)
        assert (told[-1].body["status"], told[-1].body["alert_id"] > number) == ("active", True)
    assert await plant.sql("SELECT change, note FROM alert_history WHERE alert_id = %s AND user_id IS NOT NULL", number) == [
        ("acknowledged", None),
        ("resolved", "sensor changed"),
    ]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"acknowledge 7", "not a command such as"),
        (b'{"action":"shelve","alert_id":7,"seconds":1e9}', "seconds: shelve for"),
        (b'{"action":"explode","alert_id":1}', "unknown action"),
        (b'{"action":"resolve","alert_id":999}', "there is no alert 999"),
    ],
)
async def test_a_command_that_cannot_be_carried_out_is_answered(plant: Plant, payload: bytes, said: str) -> None:
    await person(plant, "ada")
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(Message(f"{ROOT}/operators/ada/commands", payload))
        (answer,) = await ears.until(1, "operators/ada/responses")
        assert answer.body["outcome"] == "refused"
        assert said in answer.body["detail"]


async def test_shelving_holds_events_and_never_the_state(plant: Plant) -> None:
    await plant.register("press-4")
    number = await threshold(plant, "press-4", max_value=80)
    await person(plant, "ada")
    topic = f"alerts/press-4/temperature/{number}"
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-4", reading(90.0)))
        (raised,) = await ears.until(1)
        await client.publish(command("ada", "shelve", raised.body["alert_id"], seconds=3600, sticky=True))
        await ears.until_true(lambda: ears.standing.get(topic, {}).get("shelved_until") is not None)
        await client.publish(*telemetry("press-4", reading(70.0)))
        assert [told.body["status"] for told in await ears.until(2)] == ["active", "resolved"], "what was told of ends aloud"
        await client.publish(*telemetry("press-4", reading(95.0)))
        await ears.until_true(lambda: ears.standing[topic]["value"] == 95.0)
        second = ears.standing[topic]["alert_id"]
        assert second != raised.body["alert_id"]
        await client.publish(command("ada", "unshelve", second))
        told = await ears.until(3)
        assert (told[-1].body["alert_id"], told[-1].body["status"]) == (second, "active"), "the event that was held"
    assert await plant.value("SELECT count(*) FROM alert_history WHERE change = 'shelved'") == 1


async def test_plain_sql_is_noticed_and_published(plant: Plant) -> None:
    await plant.register("press-5")
    number = await threshold(plant, "press-5", max_value=80)
    async with listening(plant) as ears, plant.client() as client, plant.running():
        await client.publish(*telemetry("press-5", reading(90.0)))
        await ears.until(1)
        await plant.sql("UPDATE alerts SET status = 'acknowledged'")
        assert (await ears.until(2, within_s=2))[-1].body["status"] == "acknowledged"
        await plant.sql("UPDATE alerts SET status = 'resolved'")
        assert (await ears.until(3, within_s=2))[-1].body["status"] == "resolved"
        await client.publish(*telemetry("press-5", reading(90.5)))
        assert (await ears.until(4))[-1].body["status"] == "active", "the rule had been put back to normal"
        await plant.sql(
            "INSERT INTO alerts (device_id, threshold_id, severity, message, status)"
            " SELECT id, NULL, 'critical', 'smoke in hall 2', 'active' FROM devices"
        )
        (smoke,) = await ears.until(1, "alert-events/critical/press-5", within_s=2)
        assert smoke.body["message"] == "smoke in hall 2"
        await plant.until_sql("SELECT count(*) FROM alert_outbox WHERE published_at IS NULL", 0)
    assert await plant.value("SELECT count(*) FROM alerts WHERE NOT noticed") == 0
    assert number


async def test_a_class_covers_devices_that_come_later(plant: Plant) -> None:
    await plant.register("press-6")
    async with listening(plant) as ears, plant.client() as client, plant.running() as running:
        await plant.sql(
            "INSERT INTO threshold_classes (selector, metric_type, max_value, severity)"
            """ VALUES ('{"type": "press"}', 'temperature', 80, 'critical')"""
        )
        await plant.register("press-7")
        await plant.until_sql("SELECT count(*) FROM alert_thresholds", 2)
        await until(lambda: running.count("thresholds") == 2)
        for name in ("press-6", "press-7"):
            await client.publish(*telemetry(name, reading(90.0)))
        await ears.until(2)
        assert {severity for severity, _, _ in ears.events()} == {"critical"}
        await plant.sql("UPDATE devices SET retired_at = now() WHERE device_id = 'press-7'")
        (over,) = [told for told in await ears.until(3, within_s=2) if told.body["status"] == "resolved"]
        assert (over.body["device"], over.body["resolution"]) == ("press-7", "device_retired")
        await plant.sql("DELETE FROM threshold_classes")
        assert (await ears.until(4, within_s=2))[-1].body["resolution"] == "threshold_deleted"


async def test_a_retained_command_is_not_carried_out_again_at_the_next_start(plant: Plant) -> None:
    await plant.register("press-8")
    await threshold(plant, "press-8", max_value=80)
    await person(plant, "ada")
    topic = f"{ROOT}/operators/ada/commands"
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running():
            await client.publish(*telemetry("press-8", reading(90.0)))
            (raised,) = await ears.until(1)
            number = raised.body["alert_id"]
            await client.publish(Message(topic, command("ada", "comment", number, note="once").payload, retain=True))
            await ears.until(1, "operators/ada/responses")
        await plant.forget_sessions()  # a new session would be sent what is retained
        async with plant.running():
            await client.publish(command("ada", "comment", number, note="seen"))
            await ears.until(2, "operators/ada/responses")
        await client.publish(Message(topic, b"", retain=True))
    assert await plant.sql("SELECT note FROM alert_history WHERE change = 'comment' ORDER BY id") == [("once",), ("seen",)]


async def test_a_user_acts_on_alerts_of_own_devices_only(plant: Plant) -> None:
    await person(plant, "una", "user")
    await plant.register("press-9", "press-10")
    await plant.sql("UPDATE devices SET user_id = (SELECT id FROM users WHERE login = 'una') WHERE device_id = 'press-9'")
    await plant.sql(
        "INSERT INTO threshold_classes (selector, metric_type, max_value, severity)"
        """ VALUES ('{"location": "ha*"}', 'temperature', 80, 'warning')"""
    )
    async with listening(plant) as ears, plant.client() as client, plant.running():
        for name in ("press-9", "press-10"):
            await client.publish(*telemetry(name, reading(90.0)))
        for told in await ears.until(2):
            await client.publish(command("una", "acknowledge", told.body["alert_id"], request_id=told.body["device"]))
        answers = {told.body["request_id"]: told.body["outcome"] for told in await ears.until(2, "operators/una/responses")}
    assert answers == {"press-9": "done", "press-10": "refused"}
