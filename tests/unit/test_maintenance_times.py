"""When maintenance is due, and what it looks for."""

from datetime import UTC, datetime, timedelta

from storage.archive_due import next_run, readings_before

RUN_AT = datetime(2026, 11, 28, 2, 15, tzinfo=UTC)


def test_the_time_of_day() -> None:
    assert next_run(RUN_AT - timedelta(seconds=1), "02:15") == RUN_AT
    assert next_run(RUN_AT, "02:15") == RUN_AT + timedelta(days=1)
    assert next_run(RUN_AT, "never") is None


def test_a_day_is_due_an_hour_after_its_readings_are_refused() -> None:
    assert readings_before(RUN_AT, 90) == RUN_AT - timedelta(days=90, hours=1)
