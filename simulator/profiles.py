"""PURE. What each type of machine measures, and how: the tables behind `simulator.signals`.

Orders of magnitude follow ordinary machine-hall equipment (a 250 kN hydraulic press, a three-axis mill, a curing oven, a
screw compressor, a belt conveyor, a room sensor); vibration is the r.m.s. velocity of ISO 10816, healthy below 2.8 mm/s.
"""

from dataclasses import dataclass

UNITS = {
    "temperature": "°C",
    "humidity": "%",
    "pressure": "kPa",
    "vibration": "mm/s",
    "power_consumption": "W",
    "rpm": "1/min",
}
"""The six metrics that are columns, each with its unit."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One metric: `idle + span · lagged load + daily cycle + drift + noise`, never below `floor` nor above `ceiling`."""

    metric: str
    idle: float
    span: float
    lag_s: float = 0.0
    """Time constant of the first-order lag behind the load; 0 = follows at once."""
    daily: float = 0.0
    """Half the difference between the warmest (15:00 UTC) and the coldest hour."""
    drift: float = 0.0
    """Largest slow wander, over hours."""
    noise: float = 0.0
    """Standard deviation of the white noise."""
    cycle: float = 0.0
    """Half the swing within one work cycle, at full load."""
    floor: float = 0.0
    ceiling: float = float("inf")
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """One type of machine: its load over the day, its work cycle and its channels."""

    machine_type: str
    location: str
    cycle_s: float
    shift_load: float
    """Mean load (0 to 1) from 06:00 to 22:00 UTC on working days."""
    rest_load: float
    """Mean load at night and at the weekend."""
    channels: tuple[Channel, ...]


def _temperature(idle: float, span: float, lag_s: float, daily: float = 2.0) -> Channel:
    return Channel("temperature", idle, span, lag_s, daily=daily, drift=0.8, noise=0.12)


def _humidity(idle: float) -> Channel:
    return Channel("humidity", idle, 0.0, daily=-6.0, drift=5.0, noise=0.3, ceiling=100.0, digits=1)


def _vibration(span: float, cycle: float = 0.1) -> Channel:
    return Channel("vibration", 0.05, span, 5.0, drift=0.05, noise=0.03, cycle=cycle, floor=0.01, digits=3)


def _power(idle: float, span: float, cycle: float) -> Channel:
    return Channel("power_consumption", idle, span, 2.0, drift=span * 0.01, noise=span * 0.008, cycle=cycle, digits=1)


def _rpm(span: float, noise: float) -> Channel:
    return Channel("rpm", 0.0, span, 4.0, noise=noise, digits=0)


PROFILES = {
    profile.machine_type: profile
    for profile in (
        Profile(
            "press", "hall 1", 8.0, 0.75, 0.08,
            (
                _temperature(24.0, 31.0, 1500.0),
                Channel("pressure", 420.0, 15_500.0, 2.0, noise=60.0, cycle=3_000.0, digits=0),
                _vibration(1.9, 0.6),
                _power(1_400.0, 26_000.0, 8_000.0),
            ),
        ),
        Profile(
            "cnc", "hall 1", 45.0, 0.8, 0.1,
            (
                _temperature(23.0, 24.0, 900.0),
                _humidity(44.0),
                _vibration(1.4, 0.3),
                _power(650.0, 9_800.0, 1_900.0),
                _rpm(9_000.0, 25.0),
            ),
        ),
        Profile(
            "oven", "hall 2", 600.0, 0.9, 0.45,
            (
                _temperature(32.0, 165.0, 1800.0, daily=1.0),
                Channel("humidity", 18.0, -11.0, 1200.0, drift=2.0, noise=0.2, ceiling=100.0, digits=1),
                _power(300.0, 42_000.0, 5_000.0),
            ),
        ),
        Profile(
            "compressor", "utilities", 90.0, 0.7, 0.3,
            (
                _temperature(30.0, 52.0, 700.0, daily=3.0),
                Channel("pressure", 690.0, 95.0, 20.0, drift=6.0, noise=2.5, cycle=25.0, digits=1),
                _vibration(2.2, 0.2),
                _power(2_200.0, 34_000.0, 3_000.0),
                _rpm(2_960.0, 6.0),
            ),
        ),
        Profile(
            "conveyor", "hall 2", 20.0, 0.7, 0.05,
            (
                _temperature(22.0, 14.0, 1100.0),
                _vibration(0.9, 0.1),
                _power(120.0, 2_600.0, 180.0),
                _rpm(85.0, 0.8),
            ),
        ),
        Profile(
            "sensor", "storage", 60.0, 0.5, 0.2,
            (
                _temperature(19.0, 2.5, 3600.0, daily=2.5),
                _humidity(48.0),
                Channel("pressure", 101.3, 0.0, drift=1.4, noise=0.02, digits=2),
            ),
        ),
    )
}  # fmt: skip
"""Every machine type the simulator knows."""
