"""Maintenance windows: days, nights, and the two nights a year on which the clock jumps."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.windows import DAYS, BadWindow, read_windows

NIGHTS = "mon-fri 22:00-04:00 Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        ("08:00-10:00 UTC", "2026-03-02T07:59:59", False),
        ("08:00-10:00 UTC", "2026-03-02T08:00", True),
        ("08:00-10:00 UTC", "2026-03-02T09:59:59", True),
        ("08:00-10:00 UTC", "2026-03-02T10:00", False),
        ("00:00-24:00 UTC", "2026-03-02T23:59:59", True),
        (NIGHTS, "2026-03-02T20:59", False),  # Monday; Berlin is an hour ahead
        (NIGHTS, "2026-03-02T21:00", True),
        (NIGHTS, "2026-03-03T02:59", True),
        (NIGHTS, "2026-03-03T03:00", False),
        (NIGHTS, "2026-03-07T02:59", True),  # Saturday morning is Friday's night
        (NIGHTS, "2026-03-07T21:30", False),
        (NIGHTS, "2026-03-09T02:00", False),  # Monday morning would be Sunday's night
        (NIGHTS, "2026-07-06T20:00", True),  # summer: two hours ahead
        ("sat,sun 00:00-24:00 UTC; mon 05:00-06:00 UTC", "2026-03-08T23:59", True),
        ("sat,sun 00:00-24:00 UTC; mon 05:00-06:00 UTC", "2026-03-09T04:00", False),
        ("sat,sun 00:00-24:00 UTC; mon 05:00-06:00 UTC", "2026-03-09T05:00", True),
        ("fri-mon 12:00-13:00 UTC", "2026-03-08T12:30", True),
        ("fri-mon 12:00-13:00 UTC", "2026-03-10T12:30", False),
    ],
)
def test_open_or_closed(window: str, now: str, is_open: bool) -> None:
    assert read_windows(window).is_open(utc(now)) is is_open


class TestTheClockJumps:
    """Berlin: 2026-03-29 from 02:00 to 03:00 (01:00 UTC), 2026-10-25 from 03:00 back to 02:00 (01:00 UTC)."""

    def test_spring_forward_a_window_over_the_change_is_an_hour_shorter(self) -> None:
        window = read_windows("01:00-04:00 Europe/Berlin")
        assert window.next_opening(utc("2026-03-28T12:00")) == utc("2026-03-29T00:00")
        assert window.is_open(utc("2026-03-29T01:59:59"))
        assert not window.is_open(utc("2026-03-29T02:00"))

    def test_spring_forward_a_window_that_is_skipped_is_not_there(self) -> None:
        window = read_windows("sun 02:00-03:00 Europe/Berlin")
        for minute in range(0, 180, 5):
            assert not window.is_open(utc("2026-03-29T00:00") + timedelta(minutes=minute))
        assert window.next_opening(utc("2026-03-28T12:00")) == utc("2026-04-05T00:00")

    def test_spring_forward_a_begin_that_is_skipped_is_the_change(self) -> None:
        window = read_windows("02:30-05:00 Europe/Berlin")
        assert window.next_opening(utc("2026-03-28T12:00")) == utc("2026-03-29T01:00")
        assert not window.is_open(utc("2026-03-29T00:59:59"))
        assert not window.is_open(utc("2026-03-29T03:00"))

    def test_fall_back_the_hour_that_comes_twice_opens_once(self) -> None:
        window = read_windows("02:10-02:40 Europe/Berlin")
        assert window.is_open(utc("2026-10-25T00:10"))
        assert not window.is_open(utc("2026-10-25T00:40"))
        assert not window.is_open(utc("2026-10-25T01:10"))
        assert window.next_opening(utc("2026-10-25T00:40")) == utc("2026-10-26T01:10")

    def test_fall_back_a_window_over_the_change_is_an_hour_longer(self) -> None:
        window = read_windows("22:00-04:00 Europe/Berlin")
        assert window.is_open(utc("2026-10-24T20:00"))
        assert window.is_open(utc("2026-10-25T02:59:59"))
        assert not window.is_open(utc("2026-10-25T03:00"))


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
TIMES = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
ONE = st.builds("{} {}-{} {}".format, st.sampled_from([*DAYS, "mon-fri", "sat,tue"]), TIMES, TIMES, ZONES)
WINDOWS = st.lists(ONE, min_size=1, max_size=3).map("; ".join)


@given(
    WINDOWS.filter(lambda text: all(part.split()[1][:5] != part.split()[1][6:] for part in text.split(";"))),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - the zone is given beside
)
def test_the_next_opening_is_the_first_moment_that_is_open(text: str, now: datetime) -> None:
    windows = read_windows(text)
    opens = windows.next_opening(now)
    assert windows.is_open(opens)
    assert (opens == now) is windows.is_open(now)
    if opens > now:
        assert not windows.is_open(opens - timedelta(microseconds=1))
        for part in range(1, 20):
            assert not windows.is_open(now + (opens - now) * part / 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" ; ", "is empty"),
        ("22:00-04:00", "is no window"),
        ("daily 22:00-04:00 UTC", "'daily' is no day"),
        ("mon-xyz 22:00-04:00 UTC", "is no day"),
        ("mon 22-4 UTC", "is no span of times"),
        ("22:60-04:00 UTC", "no clock shows"),
        ("22:00-24:01 UTC", "no clock shows"),
        ("24:00-01:00 UTC", "no clock shows"),
        ("22:00-22:00 UTC", "begins when it ends"),
        ("22:00-04:00 Mars/Olympus", "is no time zone"),
        ("22:00-04:00 ../etc/passwd", "is no time zone"),
        (";".join(["01:00-02:00 UTC"] * 21), "too many"),
    ],
)
def test_a_text_that_is_none_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(BadWindow, match=words):
        read_windows(text)
