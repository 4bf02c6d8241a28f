"""PURE. Believable signals: the same (seed, machine, time) always gives the same values, with no state in between.

Each metric follows the machine's load (shifts, rest, blocks of ten minutes of its own) through a first-order lag, and adds
the time of day, a slow drift and white noise. The lag is summed in closed form over the past blocks, so a value can be
asked for any moment, in any order.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b

from simulator.profiles import PROFILES, Channel, Profile

BLOCK_S = 600.0
"""The load is constant within a block of this length."""
DRIFT_KNOT_S = 6 * 3600.0
"""The drift takes a new random value this often and moves smoothly in between."""
LAG_HORIZON = 6.0
"""Time constants looked back; what lies further has a weight below exp(-6) = 0.25 %."""


def measure(seed: int, machine: str, machine_type: str, at: datetime) -> dict[str, float]:
    """Returns the machine's metrics at a moment, in the units of `profiles.UNITS`.

    Args:
        seed: another seed, another factory.
        machine: the device id; two machines of one type differ.
        machine_type: a key of PROFILES.
        at: an aware time.

    Raises:
        LookupError: no such machine type.
    """
    profile = find_profile(machine_type)
    moment = at.timestamp()
    key = f"{seed}|{machine}"
    return {channel.metric: _value(key, profile, channel, moment) for channel in profile.channels}


def measure_extra(seed: int, machine: str, at: datetime) -> dict[str, float | bool]:
    """Returns metrics beyond the six columns: oil_level (0 to 1, falls over a week, then refilled) and door_open."""
    moment, key = at.timestamp(), f"{seed}|{machine}"
    week = (moment / (7 * 86400.0) + _uniform(key, "oil")) % 1.0
    return {"oil_level": round(0.95 - 0.6 * week, 3), "door_open": _uniform(key, "door", int(moment // 30)) < 0.08}


def load(seed: int, machine: str, machine_type: str, at: datetime) -> float:
    """Returns the machine's load (0 to 1) at a moment: what the lagged metrics strive for."""
    return _block_load(f"{seed}|{machine}", find_profile(machine_type), int(at.timestamp() // BLOCK_S))


def find_profile(machine_type: str) -> Profile:
    """Returns the profile of a type.

    Raises:
        LookupError: no such type; the text lists those there are.
    """
    try:
        return PROFILES[machine_type]
    except KeyError:
        raise LookupError(f"machine type {machine_type!r} is not known; take one of {', '.join(PROFILES)}") from None


def _value(key: str, profile: Profile, channel: Channel, moment: float) -> float:
    lagged = _lagged_load(key, profile, channel.lag_s, moment)
    build = 1.0 + 0.06 * (2.0 * _uniform(key, channel.metric, "build") - 1.0)
    value = channel.idle + channel.span * build * lagged
    value += channel.cycle * lagged * math.sin(2 * math.pi * moment / profile.cycle_s)
    value += channel.daily * math.cos(2 * math.pi * (moment / 86400.0 - 15 / 24))
    value += channel.drift * _drift(key, channel.metric, moment)
    value += channel.noise * _gauss(key, channel.metric, round(moment * 1000))
    return round(min(max(value, channel.floor), channel.ceiling), channel.digits)


def _lagged_load(key: str, profile: Profile, lag_s: float, moment: float) -> float:
    """The response of y' = (load - y) / lag to a load that is constant within each block."""
    if lag_s == 0.0:
        return _block_load(key, profile, int(moment // BLOCK_S))
    total = weight_left = 0.0
    newer = 1.0
    for block, older in _block_weights(lag_s, moment):
        weight_left = older
        total += _block_load(key, profile, block) * (newer - older)
        newer = older
    return total / (1.0 - weight_left)


def _block_weights(lag_s: float, moment: float) -> Iterator[tuple[int, float]]:
    """Yields the blocks from now backwards, each with exp(-age of its start / lag)."""
    block = int(moment // BLOCK_S)
    while True:
        age = moment - block * BLOCK_S
        yield block, math.exp(-age / lag_s)
        if age > LAG_HORIZON * lag_s:
            return
        block -= 1


@lru_cache(maxsize=65_536)
def _block_load(key: str, profile: Profile, block: int) -> float:
    seconds = block * BLOCK_S
    hour, weekday = (seconds % 86400.0) / 3600.0, (int(seconds // 86400) + 3) % 7
    at_work = weekday < 5 and 6 <= hour < 22
    mean = profile.shift_load if at_work else profile.rest_load
    if at_work and int(hour * 60) // 10 % 24 == 0:
        mean *= 0.4  # every four hours a change of shift or a break
    return min(1.0, max(0.0, mean * (0.8 + 0.4 * _uniform(key, "load", block))))


def _drift(key: str, metric: str, moment: float) -> float:
    knot, part = divmod(moment / DRIFT_KNOT_S, 1.0)
    left, right = (2.0 * _uniform(key, metric, "drift", int(knot) + step) - 1.0 for step in (0, 1))
    return left + (right - left) * part * part * (3.0 - 2.0 * part)


def _gauss(*key: object) -> float:
    """A standard normal number of the key (Box-Muller)."""
    return math.sqrt(-2.0 * math.log(1.0 - _uniform(*key, "r"))) * math.cos(2 * math.pi * _uniform(*key, "a"))


def _uniform(*key: object) -> float:
    """A number in [0, 1) of the key: a hash, because `random` would need a generator per machine and metric."""
    digest = blake2b("|".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
