"""Sequence numbers against a naive model: a set of all that has arrived."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.sequences import MAX_GAPS, Arrival, Stream, note_without_boot

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Half-open ranges of a set, rising."""
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n + 1 for n in numbers if n + 1 not in numbers)
    return list(zip(starts, ends, strict=True))


@quick
@given(st.lists(st.integers(0, 40), max_size=60))
def test_a_stream_is_a_set(later: list[int]) -> None:
    stream, seen = Stream(0), {0}
    for seq in later:
        expected = Arrival.REPEATED if seq in seen else Arrival.NEW if seq > max(seen) else Arrival.LATE
        assert stream.note(seq) is expected
        seen.add(seq)
        missing = set(range(max(seen))) - seen
        assert stream.last == max(seen)
        assert stream.missing == ranges(missing)
        assert stream.missing_count == len(missing)


def test_a_leap_over_everything() -> None:
    stream = Stream(0)
    assert stream.note(2**63 - 1) is Arrival.NEW
    assert stream.missing_count == 2**63 - 2
    assert stream.note(2**62) is Arrival.LATE
    assert stream.missing == [(1, 2**62), (2**62 + 1, 2**63 - 1)]


def test_too_many_gaps_stay_counted_as_missing() -> None:
    stream = Stream(0)
    for seq in range(2, 2 * MAX_GAPS + 4, 2):
        stream.note(seq)
    assert len(stream.missing) == MAX_GAPS
    assert stream.missing[0] == (1, 4)
    assert stream.missing_count == MAX_GAPS + 2
    assert stream.note(2) is Arrival.LATE  # it had come; better stored twice than lost


def test_late_arrivals_cannot_make_more_gaps_than_are_kept() -> None:
    stream = Stream(0)
    stream.note(10_000)
    for seq in range(2, 10_000, 2):
        assert stream.note(seq) is Arrival.LATE
    assert len(stream.missing) == MAX_GAPS
    assert stream.missing_count >= 5_000
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(stream.missing))


def test_without_boot_a_step_back_to_the_beginning_is_a_restart() -> None:
    for first in (0, 1):
        stream = Stream(100)
        stream.note(105)
        assert note_without_boot(stream, first) is Arrival.NEW
        assert (stream.last, stream.missing) == (first, [])
        assert note_without_boot(stream, first + 1) is Arrival.NEW


def test_without_boot_a_repetition_of_the_beginning_is_none() -> None:
    stream = Stream(0)
    assert note_without_boot(stream, 0) is Arrival.REPEATED
    stream = Stream(1)
    assert note_without_boot(stream, 1) is Arrival.REPEATED


def test_without_boot_the_rest_is_a_stream() -> None:
    stream = Stream(10)
    assert note_without_boot(stream, 12) is Arrival.NEW
    assert note_without_boot(stream, 11) is Arrival.LATE
    assert note_without_boot(stream, 12) is Arrival.REPEATED


def test_a_number_before_the_first_is_late_and_not_repeated() -> None:
    """The daemon may meet a stream in its middle; dropping what came before would lose readings."""
    stream = Stream(5)
    assert stream.note(2) is Arrival.LATE
    assert (stream.first, stream.missing) == (2, [(3, 5)])
    assert stream.note(4) is Arrival.LATE
    assert stream.note(2) is Arrival.REPEATED
    assert stream.missing == [(3, 4)]
