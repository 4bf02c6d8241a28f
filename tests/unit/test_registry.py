"""Reloading the devices: configuration is replaced, what is in flight stays, and one bad row spoils nothing."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from ingest.devices import DeviceRow, Registry
from ingest.sequences import Stream

START = datetime(2026, 5, 20, 12, tzinfo=UTC)


def test_a_reload_replaces_configuration_and_keeps_what_is_in_flight() -> None:
    registry = Registry()
    registry.load([DeviceRow(1, "press-1", timezone="UTC", newest=START, streams=(("b", Stream(4)),))])
    device = registry.by_name["press-1"]
    device.newest, device.clock = START.replace(hour=13), "ahead"
    device.streams["b"].note(5)
    registry.load([DeviceRow(1, "press-1", timezone="Europe/Berlin", interval_s=5, via_id=2, retired=True)])
    assert registry.by_name["press-1"] is device
    assert (device.zone, device.interval_s, device.via_id, device.retired) == (ZoneInfo("Europe/Berlin"), 5, 2, True)
    assert (device.newest, device.streams["b"].last, device.clock) == (START.replace(hour=13), 5, "ahead")


def test_two_devices_may_swap_their_names() -> None:
    registry = Registry()
    registry.load([DeviceRow(1, "a"), DeviceRow(2, "b")])
    for rows in ([DeviceRow(1, "b"), DeviceRow(2, "a")], [DeviceRow(2, "b"), DeviceRow(1, "c")]):
        registry.load(rows)
        assert {name: device.id for name, device in registry.by_name.items()} == {row.name: row.id for row in rows}


@pytest.mark.parametrize("zone", ["Mars/Base", "../etc/passwd", "", "Europe", "a\0b", "/etc/localtime"])
def test_a_zone_that_does_not_exist_is_no_zone(zone: str) -> None:
    registry = Registry()
    registry.load([DeviceRow(1, "a", timezone=zone), DeviceRow(2, "b", timezone="UTC")])
    assert registry.by_name["a"].zone is None
    assert registry.by_name["b"].zone == ZoneInfo("UTC")
