"""No faster than allowed, in small portions; what was late is not made up for."""

from storage.pace import Pace


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_portions_take_their_time() -> None:
    time = Time()
    pace = Pace(1000, lambda: time.now, time.sleep)
    for _ in range(10):
        time.now += 0.04
        pace.keep(100)
    assert round(time.now, 6) == 1.0
    assert [round(seconds, 6) for seconds in time.slept] == [0.06] * 10


def test_who_was_slow_is_not_hurried() -> None:
    time = Time()
    pace = Pace(1000, lambda: time.now, time.sleep)
    time.now += 5
    pace.keep(100)
    pace.keep(100)
    assert [round(seconds, 6) for seconds in time.slept] == [0.1]


def test_without_a_limit_nobody_waits() -> None:
    time = Time()
    Pace(None, lambda: time.now, time.sleep).keep(10**9)
    assert time.slept == []
