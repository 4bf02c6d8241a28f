"""The gate before the quarantine."""

from datetime import UTC, datetime, timedelta

from ingest.flood import FloodGate, Refusals
from ingest.reading import Quarantined, Reason

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def refused(device: str = "press-1", at: datetime = NOON) -> Quarantined:
    return Quarantined(at, f"factory/devices/{device}/telemetry", device, Reason.MALFORMED, "", b"x", None, 1)


def test_beyond_the_limit_one_sample_and_a_count() -> None:
    refusals = Refusals(FloodGate(2))
    for _ in range(5):
        refusals.add(refused())
    refusals.add(refused("press-2"))
    assert (len(refusals.kept), refusals.flooded, len(refusals)) == (3, 3, 6)
    assert len(refusals.floods) == 1


def test_the_next_hour_begins_anew_and_an_older_one_does_not() -> None:
    gate = FloodGate(1)
    assert gate.admits(refused())
    assert not gate.admits(refused(at=NOON - timedelta(hours=3)))
    assert not gate.admits(refused())
    assert gate.admits(refused(at=NOON + timedelta(hours=1)))


def test_a_failed_transaction_uses_nothing_up() -> None:
    """A batch that is tried again must not lose its bytes to its own first attempt."""
    refusals = Refusals(FloodGate(2))
    for _ in range(5):
        attempt = refusals.copy()
        attempt.add(refused())
        attempt.undo()
    last = refusals.copy()
    last.add(refused())
    assert (len(last.kept), last.flooded) == (1, 0)
