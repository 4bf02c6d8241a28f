"""Charts in characters, by their very lines."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from factoryd.commands.query_chart import can_write
from factoryd.commands.terminal_chart import ASCII, BLOCKS, Signs, draw

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
STEP = timedelta(minutes=5)


@dataclass(frozen=True)
class Point:
    at: datetime
    avg: float
    min: float
    max: float
    count: int = 1


def point(place: int, avg: float, least: float | None = None, greatest: float | None = None, count: int = 1) -> Point:
    return Point(NOON + place * STEP, avg, avg if least is None else least, avg if greatest is None else greatest, count)


def lines(
    *points: Point, places: int = 12, width: int = 24, height: int = 5, signs: Signs = BLOCKS, step: timedelta = STEP
) -> list[str]:
    return draw(points, NOON, NOON + places * step, step, width=width, height=height, signs=signs)


RISING = [point(place, 20 + place * 5, 18 + place * 5, 23 + place * 5) for place in range(12)]


def test_averages_are_a_line_in_a_band() -> None:
    assert lines(*RISING) == [
        "78.0 ┤         ░▄▀",
        "     │       ▄▄▀",
        "     │    ░▄▀░",
        "     │ ░▄▀▀",
        "18.0 ┤▄▀",
        "     └────────────",
        "      05-20 12:00 05-20 13:00",
    ]


def test_a_single_dip_shows_in_the_band() -> None:
    drawn = lines(*RISING[:11], point(11, 75, 20, 78))
    assert [line[17:] for line in drawn[:5]] == ["▀", "░", "░", "░", "░"]


def test_plain_signs_where_there_are_no_others() -> None:
    assert lines(*RISING, signs=ASCII) == [
        "78.0 +         :**",
        "     |       ***",
        "     |    :**:",
        "     | :***",
        "18.0 +**",
        "     +------------",
        "      05-20 12:00 05-20 13:00",
    ]


def test_where_there_is_room_a_point_is_wider() -> None:
    assert lines(*(point(place, place) for place in range(4)), places=4, width=30, height=3) == [
        "3.00 ┤                  ▀▀▀▀▀▀",
        "     │      ▄▄▄▄▄▄▀▀▀▀▀▀",
        "0.00 ┤▄▄▄▄▄▄",
        "     └────────────────────────",
        "      12:00:00        12:20:00",
    ]


def test_where_there_is_none_points_share_a_column_by_their_weight() -> None:
    drawn = lines(point(0, 10.0, count=9), point(1, 0.0), point(22, 10.0), point(23, 10.0), places=24, width=16, height=5)
    assert drawn[:5] == ["10.00 ┤▄      ▀", "      │░", "      │░", "      │░", " 0.00 ┤░"]


def test_no_points() -> None:
    assert lines() == ["no values"]


def test_one_point_and_a_flat_line_are_in_the_middle() -> None:
    times = "     05-20 12:00 05-20 13:00"
    floor = "    └────────────"
    assert lines(point(3, 7.5)) == ["    │", "    │", "7.5 ┤   ▀", "    │", "    │", floor, times]
    flat = [point(place, 7.5) for place in range(12)]
    assert lines(*flat) == ["    │", "    │", "7.5 ┤▀▀▀▀▀▀▀▀▀▀▀▀", "    │", "    │", floor, times]


def test_a_gap_stays_empty() -> None:
    assert lines(*(point(place, place) for place in (0, 1, 2, 9, 10, 11)))[:5] == [
        "11.00 ┤          ▄▀",
        "      │         ▀",
        "      │",
        "      │  ▄",
        " 0.00 ┤▄▀",
    ]


def test_what_is_no_finite_number_is_marked_and_does_not_spoil_the_scale() -> None:
    broken = [point(1, math.nan), point(2, 1e290, 1.0, math.inf)]
    assert lines(point(0, 1.0), *broken, point(3, 3.0), height=3)[:3] == ["3.00 ┤ !!▀", "     │", "1.00 ┤▄"]
    assert lines(*broken) == ["no finite values"]


def test_the_greatest_numbers_overflow_nothing() -> None:
    assert lines(point(0, -1.7e308), point(11, 1.7e308), height=3)[:3] == [
        " 1.7e+308 ┤           ▀",
        "          │",
        "-1.7e+308 ┤▄",
    ]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 0.0011, ("0.001100", "0.000000")),
        (101_325.0, 101_326.0, ("101326.000", "101325.000")),
        (-20.0, 80.0, ("80.0", "-20.0")),
        (0.0, 250_000.0, ("250000", "0")),
        (0.0, 4e12, ("4e+12", "0")),
    ],
)
def test_values_are_labelled_as_finely_as_they_differ(low: float, high: float, labels: tuple[str, str]) -> None:
    drawn = lines(point(0, low), point(11, high))
    assert (drawn[0].split()[0], drawn[4].split()[0]) == labels


@pytest.mark.parametrize(
    ("step", "first", "last"),
    [
        (timedelta(seconds=10), "12:00:00", "12:04:00"),
        (timedelta(hours=1), "05-20 12:00", "05-21 12:00"),
        (timedelta(days=1), "2026-05-20", "2026-06-13"),
    ],
)
def test_times_are_labelled_as_finely_as_they_differ(step: timedelta, first: str, last: str) -> None:
    times = lines(point(0, 1.0), places=24, width=60, step=step)[-1]
    assert times.strip().startswith(first)
    assert times.endswith(last)


def test_no_line_is_wider_than_the_terminal() -> None:
    for width in range(40, 200, 7):
        for places in (1, 2, 13, 60, 500, 2000):
            points = [point(place, place % 17, place % 17 - 1, place % 17 + 2) for place in range(places)]
            assert max(map(len, lines(*points, places=places, width=width, height=12))) <= width


@pytest.mark.parametrize(
    ("encoding", "can"), [("utf-8", True), ("ascii", False), ("latin-1", False), (None, False), ("?", False)]
)
def test_an_output_that_knows_no_blocks(encoding: str | None, can: bool) -> None:
    assert can_write("▀░┤", encoding) is can
