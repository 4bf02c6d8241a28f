"""PURE. When each row of a recording is due, and which time it carries."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Due:
    """The moment of one row, counted from the start of the replay."""

    after_s: float
    """When to send it."""
    recorded_after_s: float
    """Its own time on the replay's clock: equal to `after_s`, earlier for a row that is late in the recording."""


class Pace:
    """Turns recorded times, in the file's order, into moments of the replay.

    Args:
        speed: recorded seconds per real second; 0 = everything at once, as fast as it is acknowledged.
        longest_pause_s: a longer gap between two rows is cut to this many real seconds; None = gaps are kept.

    Raises:
        ValueError: a negative or infinite speed, or a negative pause.
    """

    def __init__(self, speed: float, longest_pause_s: float | None = None) -> None:
        if not 0.0 <= speed < math.inf:
            raise ValueError(f"speed {speed:g} is not possible: give 0 (as fast as possible) or a positive factor")
        if longest_pause_s is not None and not longest_pause_s >= 0.0:
            raise ValueError(f"longest pause {longest_pause_s:g} s is not possible: give 0 or more")
        self._speed = speed
        self._longest_pause_s = math.inf if longest_pause_s is None else longest_pause_s
        self._latest: datetime | None = None
        self._after_s = 0.0

    def due(self, recorded_at: datetime) -> Due:
        """Returns when the next row is due; a row older than its predecessors is due at once."""
        if self._speed == 0.0:
            return Due(0.0, 0.0)
        latest = self._latest or recorded_at
        step_s = (recorded_at - latest).total_seconds() / self._speed
        if step_s < 0.0:
            return Due(self._after_s, self._after_s + step_s)
        self._latest = recorded_at
        self._after_s += min(step_s, self._longest_pause_s)
        return Due(self._after_s, self._after_s)


def shift(started: datetime, due: Due) -> datetime:
    """Returns the row's time when the recording is played as if it happened now."""
    return started + timedelta(seconds=due.recorded_after_s)
