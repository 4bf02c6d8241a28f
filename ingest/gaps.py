"""PURE. What became of a stream's gaps between two batches: the ledger's entries."""

from collections.abc import Sequence

from ingest.sequences import Stream

Range = tuple[int, int]
"""Half-open."""


def noticed(stream: Stream) -> list[Range]:
    """Returns the gaps that are new since `stream.before`: those outside the numbers that it spanned.

    What seems to be missing anew within them is two old gaps that became one (MAX_GAPS): what lies between has come.
    """
    before = stream.before
    return [] if before is None else difference(stream.missing, [(before.first, before.last + 1)])


def filled(stream: Stream) -> list[Range]:
    """Returns what was missing in `stream.before` and has come."""
    return [] if stream.before is None else difference(stream.before.missing, stream.missing)


def difference(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """Returns what of rising, disjoint ranges is in none of others of that kind."""
    left: list[Range] = []
    place = 0
    for start, end in ranges:
        while place < len(taken) and taken[place][0] < end:
            low, high = taken[place]
            if start < low:
                left.append((start, low))
            start = max(start, high)  # noqa: PLW2901 - what is left of it
            if high > end:
                break  # it may reach into the next one
            place += 1
        if start < end:
            left.append((start, end))
    return left
