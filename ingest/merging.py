"""PURE. Two readings of one device and one moment: identical, disjoint or in conflict.

`storage.upsert` states the same rule in SQL; a property test holds the two together.
"""

from decimal import Decimal

from ingest.reading import Extra, Reading


def same(first: float | int | bool | str, second: float | int | bool | str) -> bool:
    """Tells whether two extra values are one to jsonb: true is not 1, but 1 is 1.0; numbers are compared by their digits."""
    if type(first) is type(second):
        return first == second
    if isinstance(first, (bool, str)) or isinstance(second, (bool, str)):
        return False
    return Decimal(repr(first)) == Decimal(repr(second))


def merged(first: Reading, second: Reading) -> Reading | None:
    """Returns the one reading that says what both say, or None if they contradict each other.

    It equals `first` if `second` says nothing new.
    """
    values = []
    for old, new in zip(first[1:7], second[1:7], strict=True):
        if old is not None and new is not None and old != new:
            return None
        values.append(new if old is None else old)
    old_extra, new_extra = first.extra or {}, second.extra or {}
    if any(name in old_extra and not same(old_extra[name], value) for name, value in new_extra.items()):
        return None
    extra: Extra | None = {**new_extra, **old_extra} or None
    return Reading._make((first.device_id, *values, first.recorded_at, first.received_at, extra))
