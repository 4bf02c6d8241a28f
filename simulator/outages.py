"""PURE. When a machine goes away by itself, for how long, and how."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outages:
    """How often and how long machines are away."""

    mean_interval_s: float
    """Mean time between two outages (exponentially distributed)."""
    shortest_s: float = 2.0
    longest_s: float = 30.0
    abrupt_share: float = 0.7
    """Part of the outages without DISCONNECT, so that the broker publishes the will."""


@dataclass(frozen=True, slots=True)
class Absence:
    """One outage that is due."""

    seconds: float
    abrupt: bool


def time_to_outage(outages: Outages | None, rng: random.Random) -> float:
    """Returns the seconds from a connection to its next outage; infinity if there are none."""
    return math.inf if outages is None else rng.expovariate(1.0 / outages.mean_interval_s)


def draw_absence(outages: Outages, rng: random.Random) -> Absence:
    """Returns the length and kind of an outage."""
    return Absence(rng.uniform(outages.shortest_s, outages.longest_s), rng.random() < outages.abrupt_share)
