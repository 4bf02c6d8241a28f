"""No faster than allowed, in small portions; a small delay is made up for, and a long one is not."""

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


def test_a_small_delay_is_made_up_for() -> None:
    time = Time()
    pace = Pace(1000, lambda: time.now, time.sleep)
    for _ in range(10):
        time.now += 0.34 if not time.slept and time.now == 0 else 0.04
        pace.keep(100)
    assert round(time.now, 6) == 1.0


def test_a_long_one_is_not() -> None:
    time = Time()
    pace = Pace(1000, lambda: time.now, time.sleep)
    time.now += 60
    for _ in range(10):
        pace.keep(100)
    assert round(sum(time.slept), 6) == 0.4


def test_without_a_limit_nobody_waits() -> None:
    time = Time()
    Pace(None, lambda: time.now, time.sleep).keep(10**9)
    assert time.slept == []
