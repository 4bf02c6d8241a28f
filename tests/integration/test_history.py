"""storage.history: one metric's past as arrays, from a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from config.settings import DatabaseSettings
from storage import history
from storage.history import read_history
from storage.refusals import NotFound
from tests.integration.command_line import rows
from tests.integration.conftest import TODAY, Database

NOON = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
DAY = 86_400.0
LEAD = timedelta(seconds=300)
Read = list[tuple[float, float]]
"""Seconds from NOON, and values."""


@pytest.fixture
def press(database: Database) -> Database:
    """Has a device, and another one whose readings are nobody's business."""
    statement = "INSERT INTO devices (device_id, name, type, location) VALUES ('press', '', '', ''), ('lathe', '', '', '')"
    rows(database.owner, statement)
    store(database, (0, {"temperature": -1.0, "extra": {"torque": -1}}), device="lathe")
    return database


def store(database: Database, *readings: tuple[float, dict[str, Any]], device: str = "press", delay: float = 0.0) -> None:
    """Stores readings by seconds from NOON; each was received `delay` seconds later, unless it says when itself."""
    statement = """
        INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, rpm, extra)
        SELECT id, %s, %s, %s, %s, %s FROM devices WHERE device_id = %s"""
    with psycopg.connect(database.daemon, autocommit=True) as connection:
        for seconds, said in readings:
            received = at(said.get("received", seconds + delay))
            values = [said.get("temperature"), said.get("rpm"), Jsonb(said["extra"]) if "extra" in said else None]
            connection.execute(statement, [at(seconds), received, *values, device])


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def pieces(database: Database, metric: str, since: float = -4 * DAY, until: float = 4 * DAY) -> Iterator[history.Past]:
    settings = DatabaseSettings(url=SecretStr(database.daemon))
    return read_history(settings, "press", metric, at(since), at(until), LEAD)


def read(database: Database, metric: str = "temperature", since: float = -4 * DAY, until: float = 4 * DAY) -> Read:
    found: Read = []
    for piece in pieces(database, metric, since, until):
        assert piece.times.dtype == np.int64
        assert piece.values.dtype == np.float64
        found += zip((piece.times / 1e6 - NOON.timestamp()).tolist(), piece.values.tolist(), strict=True)
    return found


def test_a_column_in_order_of_time_without_what_is_missing(press: Database) -> None:
    store(press, (2, {"temperature": 22.5}), (1, {"temperature": 21.0, "rpm": 900.0}), (3, {"rpm": 910.0}))
    assert read(press) == [(1, 21.0), (2, 22.5)]
    assert read(press, "rpm") == [(1, 900.0), (3, 910.0)]
    assert read(press, "humidity") == []


def test_nan_is_no_value_and_infinity_is_one(press: Database) -> None:
    store(press, (1, {"temperature": float("nan")}), (2, {"temperature": float("-inf")}))
    assert read(press) == [(2, float("-inf"))]


def test_a_key_of_extra_as_the_daemon_takes_it(press: Database) -> None:
    said = [
        {"torque": 3},
        {"torque": 2.5},
        {"torque": True},
        {"torque": False},
        {"torque": "7"},
        {"torque": None},
        {"other": 9},
    ]
    store(press, *((number, {"extra": extra}) for number, extra in enumerate(said)), (10, {"temperature": 1.0}))
    assert read(press, "torque") == [(0, 3.0), (1, 2.5), (2, 1.0), (3, 0.0)]
    assert read(press, "it's \" %s") == []


def test_from_since_to_before_until(press: Database) -> None:
    store(press, *((number, {"temperature": number}) for number in range(6)))
    assert read(press, since=2, until=4) == [(2, 2.0), (3, 3.0)]
    assert read(press, since=2.000001, until=4.000001) == [(3, 3.0), (4, 4.0)]
    assert read(press, since=6, until=7) == []


def test_a_device_whose_clock_is_ahead_is_taken_at_the_time_of_receipt(press: Database) -> None:
    store(press, (100, {"temperature": 1.0, "received": 90}), (101, {"temperature": 2.0, "received": 130}))
    assert read(press) == [(90, 1.0), (101, 2.0)]
    assert read(press, since=90, until=91) == [(90, 1.0)], "it was recorded after the end, by its own clock"
    assert read(press, since=91, until=101) == []


@pytest.mark.parametrize("page", [1, 2, 3, 5, 50])
def test_order_holds_from_page_to_page_while_a_clock_is_put_right(
    press: Database, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Four minutes ahead, then right: by its own clock the device was at each of these minutes twice."""
    monkeypatch.setattr(history, "PAGE", page)
    ahead = [(minute * 60 + 240, {"temperature": minute, "received": minute * 60}) for minute in range(-8, 0)]
    right = [(minute * 60 + 1, {"temperature": minute, "received": minute * 60 + 2}) for minute in range(8)]
    store(press, *ahead, *right)
    assert read(press) == [(minute * 60 + (minute >= 0), minute) for minute in range(-8, 8)]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 12])
def test_pages_leave_nothing_out_and_say_how_far_they_are(press: Database, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(history, "PAGE", 6)
    store(press, *((number * 1000, {"temperature": number}) for number in range(count)))
    found = list(pieces(press, "temperature"))
    assert [value for piece in found for value in piece.values] == list(range(count))
    assert len(found) == 1 + count // 6, "a full page may not be the last one"
    assert [piece.reached for piece in found] == sorted(piece.reached for piece in found)
    assert max(len(piece.values) for piece in found) <= 6


def test_days_without_a_partition_are_passed_over(press: Database) -> None:
    store(press, (-2 * DAY, {"temperature": 1.0}), (0, {"temperature": 2.0}), (2 * DAY, {"temperature": 3.0}))
    rows(press.owner, f"DROP TABLE sensor_readings_{TODAY:%Y%m%d}")
    assert read(press, since=-400 * DAY, until=400 * DAY) == [(-2 * DAY, 1.0), (2 * DAY, 3.0)]


def test_a_stranger_has_no_past(database: Database) -> None:
    with pytest.raises(NotFound, match="device press is not registered"):
        read(database)
