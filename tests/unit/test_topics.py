"""Topic names and filters, by the contract of docs/mqtt.md and section 4.7 of MQTT 5."""

import pytest

from mqtt import topics


@pytest.mark.parametrize("name", ["a", "press-1", "A.b_c:d-9", "x" * 255, ".", "-"])
def test_device_ids(name: str) -> None:
    assert topics.is_device_id(name)


@pytest.mark.parametrize("name", ["", "x" * 256, "a/b", "a b", "+", "#", "é", "a\n", "a\0", "$SYS", "a%u"])
def test_no_device_ids(name: str) -> None:
    assert not topics.is_device_id(name)


def test_names() -> None:
    assert topics.telemetry("factory", "p") == "factory/devices/p/telemetry"
    assert topics.status("acme/hall-2", "p") == "acme/hall-2/devices/p/status"
    assert topics.rejected("factory", "p") == "factory/devices/p/rejected"
    assert topics.device_topic("factory", "p", "ota/command") == "factory/devices/p/ota/command"
    assert topics.daemon("factory", "main") == "factory/daemon/main"
    assert topics.telemetry_filter("factory") == "factory/devices/+/telemetry"
    assert topics.status_filter("factory") == "factory/devices/+/status"


@pytest.mark.parametrize(
    ("topic", "leaf", "device"),
    [
        ("factory/devices/p/telemetry", "telemetry", "p"),
        ("factory/devices/p/ota/state", "ota/state", "p"),
        ("factory/devices//telemetry", "telemetry", ""),
        ("factory/devices/a/b/telemetry", "telemetry", None),
        ("factory/devices/telemetry", "telemetry", None),
        ("factory/devices/p/status", "telemetry", None),
        ("factory2/devices/p/telemetry", "telemetry", None),
        ("x/factory/devices/p/telemetry", "telemetry", None),
        ("factory/devices/p/telemetry/", "telemetry", None),
    ],
)
def test_device_of(topic: str, leaf: str, device: str | None) -> None:
    assert topics.device_of("factory", topic, leaf) == device


MATCHES = [
    ("a/b", "a/b", True),
    ("a/b", "a/B", False),
    ("a/+", "a/b", True),
    ("a/+", "a/", True),
    ("a/+", "a", False),
    ("a/+", "a/b/c", False),
    ("+/+", "/b", True),
    ("+", "/b", False),
    ("#", "a/b", True),
    ("#", "/", True),
    ("a/#", "a", True),
    ("a/#", "a/b/c", True),
    ("a/#", "ab", False),
    ("a/+/#", "a/b", True),
    ("a/+/#", "a", False),
    ("+/b/#", "a/b/c/d", True),
    ("#", "$SYS/broker", False),
    ("+/broker", "$SYS/broker", False),
    ("$SYS/#", "$SYS/broker", True),
    ("a.c", "abc", False),
    ("a/#", "a/b\nc", True),
    ("a/+", "a/b\nc", True),
]


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), MATCHES)
def test_matches(topic_filter: str, topic: str, expected: bool) -> None:
    assert topics.matches(topic_filter, topic) is expected


def test_sources() -> None:
    assert topics.source_filter("tele/{device}/SENSOR") == "tele/+/SENSOR"
    match = topics.source_matcher("tele/{device}/+/#")
    assert match("tele/plug/x") == "plug"
    assert match("tele/plug/x/y/z") == "plug"
    assert match("tele/plug") is None
    assert match("tele//x") is None
    assert topics.source_matcher("plant/#")("plant/x") == ""
    assert topics.source_matcher("plant/#")("plan") is None
