"""When maintenance is due, and what it looks for."""

from datetime import UTC, datetime, timedelta

import pytest

from factoryd.upkeep import step_back
from storage.archive_due import next_run, readings_before

RUN_AT = datetime(2026, 11, 28, 2, 15, tzinfo=UTC)


def test_the_time_of_day() -> None:
    assert next_run(RUN_AT - timedelta(seconds=1), "02:15") == RUN_AT
    assert next_run(RUN_AT, "02:15") == RUN_AT + timedelta(days=1)
    assert next_run(RUN_AT, "never") is None


def test_a_day_is_due_an_hour_after_its_readings_are_refused() -> None:
    assert readings_before(RUN_AT, 90) == RUN_AT - timedelta(days=90, hours=1)


def test_a_sandbox_that_forbids_to_step_back_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `SystemCallFilter=~@resources` of deploy/factoryd.service does."""

    def forbidden(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.nice", forbidden)
    step_back()
