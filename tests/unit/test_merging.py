"""Merging two readings against a model of dictionaries; and the newest value of each metric."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.batch import merge_latest
from ingest.merging import merged
from ingest.reading import METRICS, Extra, Reading

quick = settings(derandomize=True, deadline=None, max_examples=500, database=None)
NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
columns = st.tuples(*(st.sampled_from([None, None, 0.0, -0.0, 1.0, 2.5]) for _ in METRICS))
extras = st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 1, 1.0, 2.5, True, False]), min_size=1)


def reading(values: tuple[float | None, ...], extra: Extra | None, received: int = 0) -> Reading:
    return Reading._make((1, *values, NOW, NOW + timedelta(seconds=received), extra))


def said(row: Reading) -> dict[str, Any]:
    """All that a reading says; a boolean is not a number."""
    values = {name: value for name, value in zip(METRICS, row[1:7], strict=True) if value is not None}
    return values | {f"extra {name}": (isinstance(value, bool), value) for name, value in (row.extra or {}).items()}


@quick
@given(columns, extras, columns, extras)
def test_merging_is_a_union_without_contradiction(
    first_values: tuple[float | None, ...],
    first_extra: Extra | None,
    second_values: tuple[float | None, ...],
    second_extra: Extra | None,
) -> None:
    first, second = reading(first_values, first_extra), reading(second_values, second_extra, 5)
    old, new = said(first), said(second)
    both = merged(first, second)
    if any(name in old and old[name] != value for name, value in new.items()):
        assert both is None
        return
    assert both is not None
    assert said(both) == old | new
    assert (both == first) is (new.items() <= old.items())
    assert both.received_at == first.received_at


@pytest.mark.parametrize(("one", "other"), [(True, 1), (1, True), (False, 0), (0.0, False), (2**53, 2**53 + 1)])
def test_values_that_only_look_equal(one: Any, other: Any) -> None:
    nothing = (None,) * 6
    assert merged(reading(nothing, {"a": one}), reading(nothing, {"a": other})) is None


def test_integer_and_fraction_of_the_same_value() -> None:
    nothing = (None,) * 6
    first = reading(nothing, {"a": 1})
    assert merged(first, reading(nothing, {"a": 1.0})) == first


@quick
@given(columns, extras, columns, extras)
def test_latest_is_the_newest_value_of_each(
    old_values: tuple[float | None, ...], old_extra: Extra | None, new_values: tuple[float | None, ...], new_extra: Extra | None
) -> None:
    old, new = reading(old_values, old_extra), reading(new_values, new_extra, 5)
    latest = merge_latest(old, new)
    assert said(latest) == said(old) | said(new)
    assert (latest.recorded_at, latest.received_at) == (new.recorded_at, new.received_at)
