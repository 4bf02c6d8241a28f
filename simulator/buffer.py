"""Readings measured and not yet acknowledged: a device's memory over an outage."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from simulator.reading import MAX_BATCH, Reading, batch_length


class Buffer:
    """A bounded queue per device; a reading leaves only when it is acknowledged, so nothing is lost on the way."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: dict[str, deque[Reading]] = {}

    def add(self, reading: Reading) -> int:
        """Appends a reading; returns how many of the oldest had to go (0 or 1)."""
        waiting = self._waiting.setdefault(reading.device, deque())
        waiting.append(reading)
        if len(waiting) <= self._capacity:
            return 0
        waiting.popleft()
        return 1

    def batches(self) -> list[Sequence[Reading]]:
        """Returns the oldest message's worth of every device that has something waiting."""
        heads = [list(islice(waiting, MAX_BATCH)) for waiting in self._waiting.values() if waiting]
        return [head[: batch_length(head)] for head in heads]

    def remove(self, batch: Sequence[Reading]) -> None:
        """Forgets a batch that was dealt with; readings dropped meanwhile are passed over."""
        waiting = self._waiting[batch[0].device]
        while waiting and waiting[0].seq <= batch[-1].seq:
            waiting.popleft()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())
