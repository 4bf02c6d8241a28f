"""storage.charts: bins as Python computes them, whatever they are made of, on a real database."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import cast

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from bench.past import roll_up
from config.settings import DatabaseSettings
from storage import chart_bins
from storage.chart_bins import floor
from storage.charts import Bin, chart
from storage.command_connection import command_connection
from storage.refusals import InvalidInput, NotFound
from storage.rollup_sql import hours, minutes_from
from tests.integration.command_line import rows
from tests.integration.conftest import TODAY, Database

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
NOON = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)
BEGIN = NOON - 2 * DAY
MARK = NOON - 18 * MINUTE
"""In the middle of an hour: up to here readings are rolled up."""
Value = tuple[datetime, float]


def drawn() -> list[tuple[datetime, float | None, float | None]]:
    """Readings of two days, now dense, now seldom, the metrics not in each of them."""
    draw, moment, made = random.Random(3), BEGIN, list[tuple[datetime, float | None, float | None]]()
    while moment < NOON:
        temperature = draw.choice([None, round(draw.uniform(-5, 95), 3), round(draw.uniform(-5, 95), 3)])
        made.append((moment, temperature, draw.choice([None, None, draw.randrange(50) / 4])))
        moment += timedelta(seconds=draw.choice([7.25, 7.25, 7.25, 61, 61, 200, 900]))
    return made


DRAWN = drawn()
TEMPERATURES: list[Value] = [(moment, value) for moment, value, _ in DRAWN if value is not None]
TORQUES: list[Value] = [(moment, value) for moment, _, value in DRAWN if value is not None]


def store(database: Database, moment: datetime, temperature: float | None, torque: float | str | bool | None = None) -> None:
    extra = Jsonb({"torque": torque}) if torque is not None else None
    statement = """INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, extra)
        SELECT id, %s, %s, %s, %s FROM devices WHERE device_id = 'press'"""
    rows(database.daemon, statement, moment, moment, temperature, extra)


@pytest.fixture
def empty(database: Database) -> Database:
    """Has a device, and another one whose readings are nobody's business."""
    rows(
        database.owner,
        "INSERT INTO devices (device_id, name, type, location) VALUES ('press', '', '', ''), ('lathe', '', '', '')",
    )
    statement = """INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature)
        SELECT id, %s, now(), -999 FROM devices WHERE device_id = 'lathe'"""
    rows(database.daemon, statement, NOON - HOUR)
    return database


@pytest.fixture
def press(empty: Database) -> Database:
    with psycopg.connect(empty.daemon) as connection:
        statement = """INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, extra)
            SELECT id, %s, %s, %s, %s FROM devices WHERE device_id = 'press'"""
        values = [
            (moment, moment, temperature, Jsonb({"torque": torque}) if torque is not None else None)
            for moment, temperature, torque in DRAWN
        ]
        connection.cursor().executemany(statement, values)
    return empty


@pytest.fixture
def rolled(press: Database) -> Database:
    with psycopg.connect(press.admin, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        roll_up(connection, BEGIN, MARK)
    return press


def asked(database: Database, metric: str, since: datetime, until: datetime, points: int) -> tuple[str, timedelta, list[Bin]]:
    with command_connection(DatabaseSettings(url=SecretStr(database.daemon))) as connection:
        found = chart(connection, "press", metric, since=since, until=until, points=points)
    assert (found.until - found.since) / found.width <= points
    assert found.since <= since < until <= found.until
    return found.source, found.width, found.bins


def expected(values: list[Value], since: datetime, until: datetime, width: timedelta) -> list[Bin]:
    """As Python computes it; bins are whole."""
    made = dict[datetime, list[float]]()
    for moment, value in values:
        if floor(since, width) <= moment < -((chart_bins.ORIGIN - until) // width) * width + chart_bins.ORIGIN:
            made.setdefault(floor(moment, width), []).append(value)
    return [
        Bin(at, len(many), cast("float", pytest.approx(sum(many) / len(many))), min(many), max(many), many[0], many[-1])
        for at, many in sorted(made.items())
    ]


@pytest.mark.parametrize(("metric", "values"), [("temperature", TEMPERATURES), ("torque", TORQUES)])
@pytest.mark.parametrize("source", ["readings", "readings_1m", "readings_1h"])
def test_every_source_says_the_same(
    rolled: Database, monkeypatch: pytest.MonkeyPatch, source: str, metric: str, values: list[Value]
) -> None:
    monkeypatch.setattr(chart_bins, "RAW_UP_TO", 9 * DAY if source == "readings" else timedelta(0))
    monkeypatch.setattr(chart_bins, "MINUTES_UP_TO", timedelta(0) if source == "readings_1h" else 9 * DAY)
    for since, until, points in ((BEGIN, NOON, 60), (BEGIN + 3.3 * HOUR, NOON - 5.1 * HOUR, 12), (NOON - 5 * HOUR, NOON, 7)):
        used, width, bins = asked(rolled, metric, since, until, points)
        assert used == source
        assert bins == expected(values, since, until, width)
        assert len(bins) > 3


@pytest.mark.parametrize(
    ("span", "points", "source", "width"),
    [
        (HOUR, 120, "readings", timedelta(seconds=30)),
        (2 * HOUR, 2000, "readings", timedelta(seconds=5)),
        (2 * HOUR + MINUTE, 2000, "readings_1m", MINUTE),
        (DAY, 120, "readings_1m", 15 * MINUTE),
        (2 * DAY, 120, "readings_1m", 30 * MINUTE),
        (2 * DAY + MINUTE, 2000, "readings_1h", HOUR),
    ],
)
def test_the_span_decides_on_the_source(rolled: Database, span: timedelta, points: int, source: str, width: timedelta) -> None:
    used, found, bins = asked(rolled, "temperature", NOON - span, NOON, points)
    assert (used, found) == (source, width)
    assert bins == expected(TEMPERATURES, NOON - span, NOON, width)


def test_the_newest_readings_are_there_at_once(rolled: Database) -> None:
    store(rolled, NOON + timedelta(seconds=1), 42.0)
    _, _, bins = asked(rolled, "temperature", NOON - DAY, NOON + MINUTE, 2000)
    assert bins[-1] == Bin(NOON, 1, 42.0, 42.0, 42.0, 42.0, 42.0)


@pytest.mark.parametrize("span", [DAY, 2 * DAY + MINUTE])
def test_what_a_repair_has_rolled_beyond_the_mark_counts_once(rolled: Database, span: timedelta) -> None:
    """A late reading's whole hour is made anew, also where the mark stands in it."""
    with psycopg.connect(rolled.admin, autocommit=True) as connection:
        values = {"from_at": NOON - HOUR, "until_at": NOON, "devices": None}
        connection.execute(minutes_from("sensor_readings").encode(), values)
        connection.execute(hours().encode(), values)
        assert list(connection.execute("SELECT FROM readings_1m WHERE bucket >= %s", [MARK])) != []
    _, width, bins = asked(rolled, "temperature", NOON - span, NOON, 2000)
    assert bins == expected(TEMPERATURES, NOON - span, NOON, width)


def test_without_roll_ups_readings_do(press: Database) -> None:
    _, width, bins = asked(press, "temperature", BEGIN, NOON, 96)
    assert bins == expected(TEMPERATURES, BEGIN, NOON, width)


@pytest.mark.parametrize("table", ["readings_1m", "readings_1h"])
def test_where_roll_ups_were_deleted_readings_do(rolled: Database, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_bins, "MINUTES_UP_TO", 9 * DAY if table == "readings_1m" else timedelta(0))
    for statement in (f"DELETE FROM {table} WHERE bucket < '{(NOON - DAY).isoformat()}'", f"DELETE FROM {table}"):
        rows(rolled.daemon, statement)
        used, width, bins = asked(rolled, "temperature", BEGIN, NOON, 96)
        assert used == table
        assert bins == expected(TEMPERATURES, BEGIN, NOON, width)


def test_where_readings_are_gone_roll_ups_do(rolled: Database) -> None:
    _, width, before = asked(rolled, "temperature", BEGIN, NOON, 96)
    rows(rolled.owner, "DELETE FROM sensor_readings WHERE recorded_at < %s", MARK)
    assert asked(rolled, "temperature", BEGIN, NOON, 96) == ("readings_1m", width, before)


def test_absurd_values_do_not_break_the_others(empty: Database) -> None:
    """Sums are bounded, as in the roll-ups; of `extra` such a value does not count at all."""
    for second, value in enumerate((1.7e308, 1.7e308, float("inf"), 5.0)):
        store(empty, NOON + timedelta(seconds=second), value, 1e300 if second < 2 else second == 3)
    store(empty, NOON + timedelta(seconds=4), None, "text")
    _, _, (found,) = asked(empty, "temperature", NOON, NOON + HOUR, 2)
    assert (found.count, found.min, found.max, found.first, found.last) == (4, 5.0, float("inf"), 1.7e308, 5.0)
    _, _, (found,) = asked(empty, "torque", NOON, NOON + HOUR, 2)
    assert found == Bin(NOON, 2, 0.5, 0.0, 1.0, 0.0, 1.0)


@pytest.fixture
def connection(empty: Database) -> Iterator[psycopg.Connection]:
    with command_connection(DatabaseSettings(url=SecretStr(empty.tools))) as connection:
        yield connection


def test_nothing_to_show(connection: psycopg.Connection) -> None:
    for metric in ("temperature", "it's \" %s {}"):
        for span in (HOUR, DAY, 9 * DAY):
            assert chart(connection, "press", metric, since=NOON - span, until=NOON).bins == []


def test_what_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(NotFound, match="device nobody is not registered"):
        chart(connection, "nobody", "rpm", since=BEGIN, until=NOON)
    with pytest.raises(InvalidInput, match="the end must be later"):
        chart(connection, "press", "rpm", since=NOON, until=BEGIN)
    with pytest.raises(InvalidInput, match="needs an offset"):
        chart(connection, "press", "rpm", since=datetime(2026, 5, 20), until=NOON)  # noqa: DTZ001 - that is the point
    with pytest.raises(InvalidInput, match="points: 2001 is not from 2 to 2000"):
        chart(connection, "press", "rpm", since=BEGIN, until=NOON, points=2001)
