"""Device clocks: epoch numbers of every unit, at the bounds where one unit ends and the next begins."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.clocks import EPOCH, BadTime, TimeWindow, epoch_time, read_time
from ingest.reading import Reason

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
moments = st.datetimes(datetime(2001, 1, 1), datetime(2500, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001


@quick
@given(moments)
def test_every_unit_of_every_moment(moment: datetime) -> None:
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    assert epoch_time(micros) == moment
    assert epoch_time(micros * 1000) == moment
    assert epoch_time(micros // 1000) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert epoch_time(micros // 1_000_000) == moment.replace(microsecond=0)


@quick
@given(moments, st.integers(-14 * 60, 14 * 60))
def test_text_of_every_moment(moment: datetime, minutes: int) -> None:
    offset = timedelta(minutes=minutes)
    sign, off = "-" if minutes < 0 else "+", abs(minutes)
    text = f"{(moment + offset).replace(tzinfo=None).isoformat()}{sign}{off // 60:02}:{off % 60:02}"
    assert read_time(text, None) == moment


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, EPOCH),
        (0.0, EPOCH),
        (-0.0, EPOCH),
        (10**11 - 1, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (10**11, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (10**14, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (10**17, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (10**20 - 1, datetime(5138, 11, 16, 9, 46, 39, 999999, tzinfo=UTC)),
    ],
)
def test_bounds(value: float, expected: datetime) -> None:
    assert epoch_time(value) == expected


@pytest.mark.parametrize("value", [-1, -1e-9, 10**20, 10**400, float("inf"), float("-inf"), float("nan")])
def test_no_epoch(value: float) -> None:
    with pytest.raises(BadTime) as refused:
        epoch_time(value)
    assert refused.value.reason is Reason.BAD_TIME
    assert len(str(refused.value)) < 120


def test_window() -> None:
    now = datetime(2026, 5, 20, tzinfo=UTC)
    window = TimeWindow.around(now, timedelta(days=90), timedelta(seconds=300))
    assert window == (now - timedelta(days=90), now + timedelta(seconds=300))
