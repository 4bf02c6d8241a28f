"""How a chart is divided: never more bins than asked for, whole ones, and each moment from one source."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chart_bins import EARLIEST, LATEST, LENGTHS, MAX_POINTS, MIN_POINTS, ORIGIN, divide, floor, stretches
from storage.refusals import InvalidInput

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def between(begin: datetime, end: datetime) -> st.SearchStrategy[datetime]:
    return st.integers(0, (end - begin) // timedelta(microseconds=1)).map(lambda us: begin + timedelta(microseconds=us))


moments = between(EARLIEST, LATEST) | between(NOON - 200 * HOUR, NOON)


@given(moments, moments, st.integers(MIN_POINTS, MAX_POINTS))
def test_bins_are_whole_cover_the_span_and_are_few_enough(one: datetime, other: datetime, points: int) -> None:
    since, until = sorted((one, other))
    if since == until:
        return
    division = divide(since, until, points)
    assert division.since <= since
    assert until <= division.until
    assert floor(division.since, division.width) == division.since
    assert (division.until - division.since) % division.width == timedelta(0)
    assert 1 <= (division.until - division.since) // division.width <= points
    if division.table:
        assert division.width % LENGTHS[division.table] == timedelta(0)


@given(moments, moments, st.none() | moments, st.none() | moments)
def test_each_moment_comes_from_one_source(
    one: datetime, other: datetime, mark: datetime | None, first: datetime | None
) -> None:
    since, until = sorted((one, other))
    if since == until:
        return
    division = divide(since, until, 120)
    if division.table and first:
        first = floor(first, LENGTHS[division.table])
    taken = stretches(division, mark, first)
    assert taken.old[0] == division.since
    assert taken.old[1] == taken.rolled[0]
    assert taken.rolled[1] == taken.new[0]
    assert taken.new[1] == division.until
    for begin, end in (taken.old, taken.rolled, taken.new):
        assert begin <= end
    begin, end = taken.rolled
    if begin < end:
        assert mark is not None
        assert first is not None
        assert division.table is not None
        assert first <= begin
        assert end <= mark
        assert begin == floor(begin, LENGTHS[division.table])
        assert end == floor(end, LENGTHS[division.table])


def test_an_hour_in_which_the_mark_stands_is_taken_from_readings() -> None:
    division = divide(NOON - 72 * HOUR, NOON, 120)
    taken = stretches(division, NOON - 18 * MINUTE, NOON - 48 * HOUR)
    assert taken.old == (NOON - 72 * HOUR, NOON - 48 * HOUR)
    assert taken.rolled == (NOON - 48 * HOUR, NOON - HOUR)
    assert taken.new == (NOON - HOUR, NOON)


@pytest.mark.parametrize(
    ("since", "until", "points", "text"),
    [
        (NOON - HOUR, NOON, 1, "points: 1 is not from 2 to 2000"),
        (NOON - HOUR, NOON, 2001, "points: 2001 is not from 2 to 2000"),
        (EARLIEST - MINUTE, NOON, 9, "a chart is of a time between 1970 and 2200"),
        (NOON, LATEST + MINUTE, 9, "a chart is of a time between 1970 and 2200"),
        (NOON, NOON, 9, "a chart is of a time between 1970 and 2200"),
    ],
)
def test_what_is_refused(since: datetime, until: datetime, points: int, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        divide(since, until, points)


def test_two_points_over_all_times_still_end() -> None:
    division = divide(EARLIEST, LATEST, 2)
    assert division.since < EARLIEST < ORIGIN < LATEST < division.until
