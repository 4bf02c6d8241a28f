"""What the ledger of gaps learns from a stream, and when: against sets of numbers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.batch import Batch
from ingest.devices import Device
from ingest.flood import FloodGate, Refusals
from ingest.gaps import Range, difference, filled, noticed
from ingest.sequences import MAX_GAPS, Stream, note_without_boot
from tests.unit.test_sequences import ranges

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
numbers = st.sets(st.integers(0, 30))


@quick
@given(numbers, numbers)
def test_a_difference_is_that_of_sets(one: set[int], other: set[int]) -> None:
    assert difference(ranges(one), ranges(other)) == ranges(one - other)


@quick
@given(st.lists(st.integers(0, 30), min_size=1), st.lists(st.integers(0, 30)))
def test_what_changed_is_told(earlier: list[int], later: list[int]) -> None:
    stream = Stream(earlier[0])
    for seq in earlier:
        stream.note(seq)
    stream.hand_over()
    missing = list(stream.missing)
    for seq in later:
        stream.note(seq)
    handed = stream.hand_over()
    assert sorted(difference(missing, filled(handed)) + noticed(handed)) == handed.missing
    assert difference(filled(handed), missing) == [], "nothing is filled that was not missing"


@pytest.mark.parametrize(("seq", "changes"), [(5, False), (6, False), (8, True), (4, False), (3, True)])
def test_only_a_gap_that_comes_or_goes_is_told(seq: int, changes: bool) -> None:
    stream = Stream(5)
    stream.note(seq)
    assert (stream.before is not None) is changes


def test_a_late_message_is_told() -> None:
    stream = Stream(1)
    stream.note(4)
    first = stream.hand_over()
    assert (noticed(first), filled(first)) == ([(2, 4)], [])
    stream.note(4)
    assert stream.hand_over().before is None, "nothing has changed since"
    stream.note(3)
    second = stream.hand_over()
    assert (noticed(second), filled(second)) == ([], [(3, 4)])


def test_a_gap_that_closes_before_it_is_stored_is_none() -> None:
    stream = Stream(1)
    for seq in (3, 2):
        stream.note(seq)
    handed = stream.hand_over()
    assert (noticed(handed), filled(handed)) == ([], [])


def test_two_gaps_that_become_one_are_no_new_gap() -> None:
    stream = Stream(0)
    for seq in range(2, 2 * MAX_GAPS + 2, 2):
        stream.note(seq)
    stream.hand_over()
    stream.note(2 * MAX_GAPS + 2)
    assert stream.missing[0] == (1, 4)
    assert noticed(handed := stream.hand_over()) == [(2 * MAX_GAPS + 1, 2 * MAX_GAPS + 2)]
    assert filled(handed) == []


class TestWithoutBoot:
    def test_a_run_that_ends_takes_its_gaps_with_it(self) -> None:
        stream = Stream(5)
        for seq in (7, 0, 2, 0, 1, 3):
            note_without_boot(stream, seq)
        handed = stream.hand_over()
        assert handed.anew
        assert [noticed(run) for run in (*handed.ended, handed)] == [[(6, 7)], [(1, 2)], [(2, 3)]]
        assert [filled(run) for run in (*handed.ended, handed)] == [[], [], []]
        assert (stream.ended, stream.anew, stream.before) == ([], False, None), "it is told once"

    def test_a_run_without_gaps_ends_without_a_word(self) -> None:
        stream = Stream(5)
        for seq in (6, 0, 1):
            note_without_boot(stream, seq)
        assert not stream.hand_over().anew

    def test_a_stream_that_begins_may_follow_one_that_was_forgotten(self) -> None:
        device = Device(1, "press-1")
        assert device.begin_stream("", 5).anew
        assert not device.begin_stream("b", 5).anew, "the numbers of a boot are those of one run"


class TestBatches:
    """A batch is stored as often as it must be tried, and each before the next."""

    @staticmethod
    def batch(device: Device, *seqs: int, boot: str = "b", into: Batch | None = None) -> Batch:
        batch = into or Batch(Refusals(FloodGate(1)))
        for seq in seqs:
            stream = device.stream(boot)
            if stream is None:
                stream = device.begin_stream(boot, seq)
            elif boot:
                stream.note(seq)
            else:
                note_without_boot(stream, seq)
            batch.note(device.id, boot, stream, seq)
        return batch

    @staticmethod
    def told(batch: Batch, boot: str = "b") -> tuple[list[Range], list[Range]]:
        batch.close()
        return noticed(batch.sequences[1, boot]), filled(batch.sequences[1, boot])

    def test_each_tells_its_own_however_often_it_is_asked(self) -> None:
        device = Device(1, "press-1")
        first = self.batch(device, 1, 3)
        first.close()
        second = self.batch(device, 2, 5)
        for _ in range(2):
            assert self.told(first) == ([(2, 3)], [])
            assert self.told(second) == ([(4, 5)], [(2, 3)])

    def test_a_strangers_messages_are_told_once(self) -> None:
        """They are decoded when their batch is closed already."""
        device = Device(1, "press-1")
        batch = Batch(Refusals(FloodGate(1)))
        batch.close()
        self.batch(device, 1, 4, 2, into=batch)
        assert self.told(batch) == ([(3, 4)], [])
        assert self.told(self.batch(device, 3)) == ([], [(3, 4)])

    def test_a_strangers_restart_is_told_once(self) -> None:
        device = Device(1, "press-1")
        batch = Batch(Refusals(FloodGate(1)))
        batch.close()
        self.batch(device, 1, 4, 0, 3, boot="", into=batch)
        handed = batch.sequences[1, ""]
        assert handed.anew
        assert [noticed(run) for run in (*handed.ended, handed)] == [[(2, 4)], [(1, 3)]]
        after = self.batch(device, 2, 5, boot="")
        assert self.told(after, "") == ([(4, 5)], [(2, 3)])
        assert not after.sequences[1, ""].anew

    def test_a_strangers_message_behind_the_live_stream_is_told_once(self) -> None:
        device = Device(1, "press-1")
        early = self.batch(device, 1, 4)
        early.close()
        late = self.batch(device, 6)
        self.batch(device, 3, into=early)
        assert self.told(early) == ([(2, 3)], [])
        assert self.told(late) == ([(5, 6)], [])
