"""Names of partitions, and how far ahead they reach: pure functions."""

from datetime import date, timedelta

import pytest

from storage.partitions import partition_days_ahead, partition_name

TODAY = date(2026, 12, 30)


def test_a_name_says_its_day() -> None:
    assert partition_name(date(2026, 1, 5)) == "sensor_readings_20260105"


@pytest.mark.parametrize(
    ("days", "ahead"),
    [([], -1), ([1, 2], -1), ([0], 0), ([-1, 0, 1, 2, 3], 3), ([0, 1, 3, 4], 1), (range(-90, 8), 7)],
)
def test_days_ahead_are_counted_up_to_the_first_gap(days: list[int], ahead: int) -> None:
    names = [partition_name(TODAY + timedelta(days=day)) for day in days]
    assert partition_days_ahead(names, TODAY) == ahead
    assert partition_days_ahead(reversed(names), TODAY) == ahead
