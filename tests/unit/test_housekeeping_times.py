"""When partitions are looked after."""

from datetime import UTC, datetime

import pytest

from factoryd.partitioning import seconds_to_next


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (datetime(2026, 5, 20, 12, tzinfo=UTC), 3600),
        (datetime(2026, 5, 20, 23, 30, tzinfo=UTC), 1805),
        (datetime(2026, 5, 20, 23, 0, 5, tzinfo=UTC), 3600),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), 6),
        (datetime(2026, 5, 21, 0, 0, 5, tzinfo=UTC), 3600),
    ],
)
def test_hourly_and_shortly_after_midnight(now: datetime, seconds: float) -> None:
    assert seconds_to_next(now) == seconds
