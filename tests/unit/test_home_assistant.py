"""The recipe of docs/home-assistant.md: its templates, rendered as Home Assistant does, over what factoryd really publishes."""

import json
import re
from ast import literal_eval
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec.structs import replace

from alerting.alert import Alert, Place, Severity, Status
from alerting.operators import read_command
from alerting.payloads import encode_alert
from mqtt import topics

PAGE = (Path(__file__).parents[2] / "docs/home-assistant.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
PLACE = Place(1, "press-7", "Press 7", "hall 2")
ACTIVE = Alert(
    id=4711,
    device_id=1,
    kind="threshold",
    threshold_id=12,
    severity=Severity.CRITICAL,
    metric="temperature",
    topic="press-7/temperature/12",
    triggered_at=NOW,
    message="Press 7 (hall 2): temperature 84.5 °C above 80 °C, 2026-11-22 11:00:00 CET",
    value=84.5,
    peak_value=84.5,
    max_value=80.0,
)
ACKNOWLEDGED = replace(ACTIVE, version=2, status=Status.ACKNOWLEDGED, acknowledged_at=NOW, acknowledged_by=5)
RESOLVED = replace(ACKNOWLEDGED, version=3, status=Status.RESOLVED, resolved_at=NOW + timedelta(minutes=1))


def payload(alert: Alert | None) -> str:
    """Returns a message as it is published; None: the retained state is cleared."""
    return "" if alert is None else encode_alert(alert, PLACE, {5: "ada"}).decode()


def configuration() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        merged |= yaml.safe_load(text)
    return merged


CONFIGURATION = configuration()
(BINARY_SENSOR,) = [entry["binary_sensor"] for entry in CONFIGURATION["mqtt"] if "binary_sensor" in entry]
(SENSOR,) = [entry["sensor"] for entry in CONFIGURATION["mqtt"] if "sensor" in entry]
(AUTOMATION,) = CONFIGURATION["automation"]
SCRIPT = CONFIGURATION["script"]["factoryd_acknowledge"]
(PUBLISH,) = SCRIPT["sequence"]


def rendered(template: str, **variables: Any) -> str:
    """As `Template.async_render`: sandboxed Jinja, stripped. Here a misspelt name is an error."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    return environment.from_string(template).render(variables).strip()


def native(text: str) -> Any:
    """As a script sees a result: what looks like a number is one ("4711.10" is 4711.1), and so are True and False."""
    try:
        value = literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError):
        return text
    return (
        value if isinstance(value, bool) or (isinstance(value, int | float) and re.fullmatch(r"[+-]?\d*\.?\d+", text)) else text
    )


def received(template: str, message: str) -> str:
    """As `async_render_with_possible_json_value`: `value_json` is there only if the message is JSON."""
    try:
        return rendered(template, value=message, value_json=json.loads(message))
    except ValueError:
        return rendered(template, value=message)


@pytest.mark.parametrize(
    ("alert", "state", "text"),
    [
        (ACTIVE, "ON", ACTIVE.message),
        (ACKNOWLEDGED, "ON", ACTIVE.message),
        (RESOLVED, "OFF", "no alert"),
        (None, "OFF", "no alert"),
        (replace(ACTIVE, message="x" * 1_000), "ON", "x" * 255),
        (replace(ACTIVE, value=float("inf"), shelved_until=NOW, stale=True), "ON", ACTIVE.message),
    ],
    ids=["active", "acknowledged", "resolved", "cleared", "long", "shelved"],
)
def test_the_sensors_show_the_state(alert: Alert | None, state: str, text: str) -> None:
    assert received(BINARY_SENSOR["value_template"], payload(alert)) == state
    assert received(SENSOR["value_template"], payload(alert)) == text


@pytest.mark.parametrize("alert", [ACTIVE, ACKNOWLEDGED, RESOLVED, None])
def test_the_attributes_are_the_payload(alert: Alert | None) -> None:
    attributes = json.loads(received(BINARY_SENSOR["json_attributes_template"], payload(alert)))
    assert attributes == (json.loads(payload(alert)) if alert is not None else {})


@pytest.mark.parametrize(("status", "available"), [("online", "online"), ("blind", "offline"), ("offline", "offline")])
def test_what_is_not_known_is_not_shown(status: str, available: str) -> None:
    message = json.dumps({"status": status, "version": "0.1.0", "since": NOW.isoformat()})
    for entity in (BINARY_SENSOR, SENSOR):
        assert received(entity["availability_template"], message) == available


def test_the_topics_are_ours() -> None:
    state, daemon = topics.alert_state("factory", ACTIVE.topic), topics.daemon("factory", "main")
    assert {entity[key] for entity in (BINARY_SENSOR, SENSOR) for key in ("state_topic", "availability_topic")} == {
        state,
        daemon,
    }
    assert BINARY_SENSOR["json_attributes_topic"] == state
    assert AUTOMATION["triggers"][0]["topic"].removesuffix("#") == topics.alert_event("factory", "critical", "")
    assert topics.operator_of("factory", PUBLISH["data"]["topic"]) == "home-assistant"
    rules = re.findall(r"^topic (\w+) (\S+)$", PAGE, re.MULTILINE)
    assert ("write", PUBLISH["data"]["topic"]) in rules
    assert ("read", topics.operator_responses("factory", "home-assistant")) in rules
    assert [topic for right, topic in rules if right == "write"] == [PUBLISH["data"]["topic"]]


class HomeAssistant:
    """Runs the automation's actions, one trigger after the other (`mode: queued`)."""

    def __init__(self) -> None:
        self.helper = "unknown"
        self.notifications: list[dict[str, str]] = []

    def hear(self, message: str) -> None:
        variables: dict[str, Any] = {
            "trigger": {"payload_json": json.loads(message)},
            "states": lambda entity: {"input_text.factoryd_seen": self.helper}[entity],
        }
        for action in AUTOMATION["actions"]:
            if "variables" in action:
                variables |= {name: native(rendered(text, **variables)) for name, text in action["variables"].items()}
            elif "condition" in action:
                if native(rendered(action["value_template"], **variables)) is not True:
                    return
            else:
                data = {name: str(native(rendered(text, **variables))) for name, text in action["data"].items()}
                self.do(action["action"], data)

    def do(self, action: str, data: dict[str, str]) -> None:
        if action == "input_text.set_value":
            assert len(data["value"]) <= CONFIGURATION["input_text"]["factoryd_seen"]["max"] <= 255
            self.helper = data["value"]
        else:
            assert action == "persistent_notification.create"
            self.notifications.append(data)


def test_each_version_is_told_of_once_and_replaces_the_one_before() -> None:
    home, alert = HomeAssistant(), replace(ACTIVE, instruction="Close valve 3.")
    other = replace(ACTIVE, id=4712)
    for heard in (alert, alert, other, alert, ACKNOWLEDGED, other, ACKNOWLEDGED, RESOLVED, RESOLVED, alert):
        home.hear(payload(heard))
    told = [(notification["notification_id"], notification["title"]) for notification in home.notifications]
    assert told == [
        ("factoryd_4711", "Press 7: active"),
        ("factoryd_4712", "Press 7: active"),
        ("factoryd_4711", "Press 7: acknowledged"),
        ("factoryd_4711", "Press 7: resolved"),
    ]
    assert home.notifications[0]["message"] == f"{ACTIVE.message} Close valve 3."


def test_the_memory_fits_into_the_helper() -> None:
    home, alerts = HomeAssistant(), [replace(ACTIVE, id=10**12 + number, version=9_999) for number in range(40)]
    for alert in alerts:
        home.hear(payload(alert))
    for alert in alerts[-12:]:
        home.hear(payload(alert))
    assert len(home.notifications) == 40


@pytest.mark.parametrize("given", [{}, {"alert_id": 4711}])
def test_the_button_sends_a_command_that_is_understood(given: dict[str, int]) -> None:
    known = {"binary_sensor.press_7_too_hot": json.loads(payload(ACTIVE))}
    text = rendered(PUBLISH["data"]["payload"], state_attr=lambda entity, name: known[entity][name], **given)
    command, _ = read_command(text.encode(), NOW)
    assert (command.action, command.alert_id) == ("acknowledge", 4711)
    assert PUBLISH["data"].get("retain", False) is False


ENTITY = {
    "name", "unique_id", "qos", "state_topic", "value_template", "json_attributes_topic", "json_attributes_template",
    "availability_topic", "availability_template", "device_class",
}  # fmt: skip
"""Of Home Assistant's pages on MQTT binary sensors and sensors; below, of those on automations, scripts and their actions."""


def keys() -> Iterator[tuple[set[str], set[str]]]:
    yield set(CONFIGURATION), {"mqtt", "input_text", "automation", "script"}
    yield set(BINARY_SENSOR), ENTITY
    yield set(SENSOR), ENTITY - {"device_class"}
    yield set(AUTOMATION), {"alias", "mode", "max", "triggers", "conditions", "actions"}
    yield from ((set(trigger), {"trigger", "topic", "qos"}) for trigger in AUTOMATION["triggers"])
    yield from (
        (set(step), {"variables", "condition", "value_template", "action", "target", "data"}) for step in AUTOMATION["actions"]
    )
    yield set(SCRIPT), {"alias", "fields", "sequence"}
    yield set(PUBLISH["data"]), {"topic", "payload", "qos", "retain"}


def test_the_keys_are_those_of_home_assistant() -> None:
    assert [used - known for used, known in keys() if used - known] == []
    assert BINARY_SENSOR["device_class"] == "problem"
    assert (AUTOMATION["mode"], AUTOMATION["triggers"][0]["trigger"]) == ("queued", "mqtt")
