"""PURE. Stages of a rollout: cumulative shares of a frozen order of devices, with an optional canary before them."""

import math
from collections.abc import Collection, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

MOST = 50


class BadStages(ValueError):
    """A text does not say stages; says what to write."""


class PlannedStage(NamedTuple):
    """A stage and its devices, in the order in which they have their turn."""

    stage_no: int
    name: str
    cum_percent: float | None
    """Of all devices, with the stages before; None: the canary."""
    devices: Sequence[str]


def read_stages(text: str) -> tuple[float, ...]:
    """Returns the cumulative percentages of a text such as 1,10,50,100.

    Raises:
        BadStages: it says none.
    """
    try:
        percents = tuple(float(part.strip().removesuffix("%")) for part in text.split(","))
    except ValueError:
        raise BadStages(f"{text[:80]!r} does not say stages; write them like 1,10,50,100") from None
    if not all(0 < percent <= 100 for percent in percents):
        raise BadStages(f"{text[:80]}: each stage is a percentage of all devices, above 0 and at most 100")
    if any(later <= earlier for earlier, later in pairwise(percents)):
        raise BadStages(f"{text[:80]}: stages count the devices before them, so each must be larger than the one before")
    if percents[-1] != 100:
        raise BadStages(f"{text[:80]}: the last stage must be 100, or some devices would never have their turn")
    if len(percents) > MOST:
        raise BadStages(f"{len(percents)} stages are too many, at most {MOST} can be given")
    return percents


def frozen_order(devices: Collection[str], salt: str) -> list[str]:
    """Returns devices in an order that looks like chance, and is the same whenever it is asked for."""
    return sorted(devices, key=lambda device: (sha256(f"{salt}{device}".encode()).digest(), device))


def plan_stages(
    devices: Collection[str], salt: str, percents: Sequence[float], canary: Collection[str] = ()
) -> list[PlannedStage]:
    """Divides devices into stages; each device is in one of them, and none is empty.

    Args:
        devices: eligible ones, each once.
        salt: of the rollout.
        percents: cumulative, the last is 100.
        canary: those of them that come before all others.
    """
    first = frozen_order(set(canary) & set(devices), salt)
    order = first + frozen_order(set(devices) - set(canary), salt)
    stages = [PlannedStage(0, "canary", None, first)] if first else []
    taken = len(first)
    for percent in percents:
        # Rounded: 7 % of 100 is 7, and not 7.000000000000001.
        reach = math.ceil(round(percent * len(order) / 100, 9))
        if reach > taken:
            stages.append(PlannedStage(len(stages), f"{percent:g}%", percent, order[taken:reach]))
            taken = reach
    return stages
