"""PURE. Builds and parses topic names and filters: the one place that knows how our topics look.

The contract is docs/mqtt.md. A device's identity comes from its topic, never from its payload: the broker's access rules pin
the topic to the account.
"""

import re
from collections.abc import Callable

DEVICE_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")
"""What a device id may look like. A `/` would escape the `%u` patterns of the broker's access rules."""


def is_device_id(text: str) -> bool:
    """Tells whether `text` may be a device's id."""
    return DEVICE_ID.fullmatch(text) is not None


def device_topic(root: str, device: str, leaf: str) -> str:
    """Returns a topic of one device; `leaf` is telemetry, status, rejected, ota/command, ota/progress or ota/state."""
    return f"{root}/devices/{device}/{leaf}"


def telemetry(root: str, device: str) -> str:
    """Device →, QoS 1, not retained: one reading or a batch."""
    return device_topic(root, device, "telemetry")


def status(root: str, device: str) -> str:
    """Device →, QoS 1, retained: birth and will."""
    return device_topic(root, device, "status")


def rejected(root: str, device: str) -> str:
    """→ device, QoS 1: why a message of this device was quarantined."""
    return device_topic(root, device, "rejected")


def daemon(root: str, instance: str) -> str:
    """→ all, QoS 1, retained: birth and will of factoryd itself."""
    return f"{root}/daemon/{instance}"


def token(root: str, instance: str) -> str:
    """Factoryd → factoryd: published after SUBACK, its return marks the end of backlog and retained messages."""
    return f"{root}/daemon/{instance}/token"


def alert_state(root: str, alert: str) -> str:
    """→ operators, QoS 1, retained: the present state of one alert; `alert` is device/metric/threshold."""
    return f"{root}/alerts/{alert}"


def alert_states_filter(root: str) -> str:
    """All alerts' states."""
    return f"{root}/alerts/#"


def alert_event(root: str, severity: str, device: str) -> str:
    """→ operators, QoS 1: one message per transition."""
    return f"{root}/alert-events/{severity}/{device}"


def alert_history(root: str, device: str) -> str:
    """→ operators, QoS 1: what late readings showed."""
    return f"{root}/alert-history/{device}"


def operator_commands_filter(root: str) -> str:
    """Operator →: all people's commands."""
    return f"{root}/operators/+/commands"


def devices(root: str) -> str:
    """Returns how all topics of devices begin."""
    return f"{root}/devices/"


def operator_of(root: str, topic: str) -> str | None:
    """Returns the login of `{root}/operators/{login}/commands`, or None if `topic` is not of that shape."""
    prefix, suffix = f"{root}/operators/", "/commands"
    if len(topic) < len(prefix) + len(suffix) or not topic.startswith(prefix) or not topic.endswith(suffix):
        return None
    login = topic[len(prefix) : -len(suffix)]
    return None if "/" in login else login


def operator_responses(root: str, login: str) -> str:
    """→ operator, QoS 1: answers; a Response Topic must be this or below it."""
    return f"{root}/operators/{login}/responses"


def telemetry_filter(root: str) -> str:
    """All devices' telemetry."""
    return f"{root}/devices/+/telemetry"


def status_filter(root: str) -> str:
    """All devices' births and wills."""
    return f"{root}/devices/+/status"


def ota_command(root: str, device: str) -> str:
    """→ device, QoS 1, never retained: `update`, `cancel` or `query`."""
    return device_topic(root, device, "ota/command")


def ota_progress(root: str, device: str) -> str:
    """Device →, QoS 1: reports about the update under way."""
    return device_topic(root, device, "ota/progress")


def ota_state(root: str, device: str) -> str:
    """Device →, QoS 1, retained: what runs now; the first message after every boot."""
    return device_topic(root, device, "ota/state")


def ota_progress_filter(root: str) -> str:
    """All devices' reports."""
    return ota_progress(root, "+")


def ota_state_filter(root: str) -> str:
    """What runs on all devices."""
    return ota_state(root, "+")


def device_of(root: str, topic: str, leaf: str) -> str | None:
    """Returns the device of `{root}/devices/{device}/{leaf}`, or None if `topic` is not of that shape.

    The device is returned as it stands: `is_device_id` tells whether it is a good one.
    """
    prefix, suffix = f"{root}/devices/", f"/{leaf}"
    if len(topic) < len(prefix) + len(suffix) or not topic.startswith(prefix) or not topic.endswith(suffix):
        return None
    device = topic[len(prefix) : -len(suffix)]
    return None if "/" in device else device


def source_filter(template: str) -> str:
    """Returns the MQTT filter of a source's template: `tele/{device}/SENSOR` → `tele/+/SENSOR`."""
    return "/".join("+" if level == "{device}" else level for level in template.split("/"))


def source_matcher(template: str) -> Callable[[str], str | None]:
    """Returns a function from topic to device for a source's template: None = no match, "" = match without a device level."""
    pattern = "/".join(_level_pattern(level) for level in template.split("/")).replace("/(?:.*)", "(?:/.*)?")
    compiled = re.compile(pattern, re.DOTALL)

    def match(topic: str) -> str | None:
        found = compiled.fullmatch(topic)
        if found is None:
            return None
        return found.groupdict().get("device") or ""

    return match


def _level_pattern(level: str) -> str:
    match level:
        case "{device}":
            return "(?P<device>[^/]+)"
        case "+":
            return "[^/]*"
        case "#":
            return "(?:.*)"
        case _:
            return re.escape(level)


def matches(topic_filter: str, topic: str) -> bool:
    """Tells whether `topic` matches an MQTT filter (MQTT 5, section 4.7)."""
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    return source_matcher(topic_filter)(topic) is not None
