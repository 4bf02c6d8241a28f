"""PURE. Sequence numbers: which messages of a device never reached us, and which came twice.

A broker acknowledges what its full queue then drops, so a gap in `seq` is the only proof of a loss upstream of us. One stream
per (device, boot_id); `seq` rises by one per message within it.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum

MAX_GAPS = 1_000
"""Ranges kept per stream; beyond it the two oldest become one, and stay counted as missing."""


class Arrival(Enum):
    """What a sequence number tells about its message."""

    NEW = "new"
    LATE = "late"
    """It fills a gap."""
    REPEATED = "repeated"
    """Seen before."""


@dataclass(slots=True)
class Stream:
    """The sequence numbers of one boot of one device. `missing` holds half-open ranges in rising order."""

    last: int
    missing: list[tuple[int, int]] = field(default_factory=list)
    first: int = -1
    """The lowest number seen; -1 = the same as `last`, for a stream that begins. What came before it may still come."""
    before: "Stream | None" = field(default=None, compare=False, repr=False)
    """As it was when the ledger of gaps last learnt of it; None: its gaps have not changed since."""
    ended: "list[Stream]" = field(default_factory=list, compare=False, repr=False)
    """Runs with gaps that have ended since then, each with its own `before`."""
    anew: bool = field(default=False, compare=False, repr=False)
    """A run has begun since then: gaps that are open in the ledger are of an earlier one."""

    def __post_init__(self) -> None:
        if self.first < 0:
            self.first = self.last

    def copy(self) -> "Stream":
        """Returns the stream as it is now."""
        return Stream(self.last, list(self.missing), self.first)

    def hand_over(self) -> "Stream":
        """Returns the stream as it is now, with what the ledger has to learn: both are stored together, or never."""
        taken = self.copy()
        if self.before is not None or self.anew:
            taken.before, taken.ended, taken.anew = self.before, self.ended, self.anew
            self.before, self.ended, self.anew = None, [], False
        return taken

    def begin_anew(self, seq: int) -> None:
        """The device counts from the beginning: what is missing of this run can no longer come."""
        if self.missing or self.before is not None:
            self.ended.append(Stream(self.last, self.missing, self.first, self.before))
            self.before, self.anew = None, True
        self.last, self.missing, self.first = seq, [], seq

    @property
    def missing_count(self) -> int:
        """How many messages have not arrived."""
        return sum(end - start for start, end in self.missing)

    def note(self, seq: int) -> Arrival:
        """Records one arrival."""
        if seq > self.last:
            if seq > self.last + 1:
                self._add_gap(self.last + 1, seq)
            self.last = seq
            return Arrival.NEW
        if seq < self.first:
            self._extend_back(seq)
            return Arrival.LATE
        return self._fill(seq)

    def _extend_back(self, seq: int) -> None:
        if seq + 1 < self.first:
            self._keep_before()
            self.missing.insert(0, (seq + 1, self.first))
            self._limit()
        self.first = seq

    def _add_gap(self, start: int, end: int) -> None:
        self._keep_before()
        self.missing.append((start, end))
        self._limit()

    def _keep_before(self) -> None:
        if self.before is None:
            self.before = self.copy()

    def _limit(self) -> None:
        if len(self.missing) > MAX_GAPS:
            (first, _), (_, last) = self.missing[0], self.missing[1]
            self.missing[:2] = [(first, last)]

    def _fill(self, seq: int) -> Arrival:
        place = bisect_right(self.missing, (seq, float("inf"))) - 1
        if place < 0 or seq >= self.missing[place][1]:
            return Arrival.REPEATED
        self._keep_before()
        start, end = self.missing[place]
        self.missing[place : place + 1] = [gap for gap in ((start, seq), (seq + 1, end)) if gap[0] < gap[1]]
        self._limit()
        return Arrival.LATE


def note_without_boot(stream: Stream, seq: int) -> Arrival:
    """Records an arrival of a device that sends no `boot_id`: a step back to 0 or 1 is a restart, and begins anew."""
    if seq <= 1 and seq < stream.last:
        stream.begin_anew(seq)
        return Arrival.NEW
    return stream.note(seq)
