"""PURE. Thresholds as people write and read them, on the command line and in a CSV file alike."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from factoryd.commands.durations import SECONDS, read_duration
from storage.refusals import InvalidInput
from storage.threshold_fields import Threshold

FRACTION = re.compile(r"(\d{1,7}\.\d{1,6})s", re.ASCII)
YES, NO = ("yes", "true"), ("no", "false")


class Field(NamedTuple):
    """One thing that a threshold says."""

    key: str
    """In Threshold."""
    read: Callable[[str], object]
    write: Callable[[Any], str]
    otherwise: object = None
    """For an empty text, and for `none`."""


def read_values(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Returns values by the fields of Threshold, from texts by the names of FIELDS. None: not said; "" or none: taken away.

    Raises:
        InvalidInput: with the first text that cannot be used.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None:
            continue
        field, said = FIELDS[name], text.strip()
        try:
            values[field.key] = field.read(said) if said not in {"", "none"} else field.otherwise
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from error
    return values


def texts_of(threshold: Threshold) -> dict[str, str]:
    """Returns the same as texts by the names of FIELDS; what is as it is without being said is empty."""
    values = {name: getattr(threshold, field.key) for name, field in FIELDS.items()}
    return {name: "" if value == FIELDS[name].otherwise else FIELDS[name].write(value) for name, value in values.items()}


def condition_text(threshold: Threshold) -> str:
    """Returns what a threshold watches for, e.g. `above 80 for 30s, hysteresis 2`."""
    limits = [("below", threshold.min_value), ("above", threshold.max_value)]
    watched = " or ".join(f"{word} {number_text(limit)}" for word, limit in limits if limit is not None)
    if threshold.for_seconds and watched:
        watched += f" for {duration_text(threshold.for_seconds)}"
    parts = [
        watched,
        f"hysteresis {number_text(threshold.hysteresis)}" if threshold.hysteresis else "",
        f"clear {duration_text(threshold.clear_seconds)}" if threshold.clear_seconds else "",
        f"max-gap {duration_text(threshold.max_gap_seconds)}" if threshold.max_gap_seconds is not None else "",
        f"no data for {duration_text(threshold.no_data_seconds)}" if threshold.no_data_seconds is not None else "",
    ]
    return ", ".join(filter(None, parts))


def number_text(value: float) -> str:
    """Returns the shortest text that is read as the same number."""
    return repr(float(value)).removesuffix(".0")


def duration_text(seconds: float) -> str:
    """Returns a duration in the largest unit that takes it whole."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{text[:40]!r} is no number; write it like 80, -12.5 or 1e6, or none")
    return value


def _seconds(text: str) -> float:
    if (found := FRACTION.fullmatch(text)) is not None:
        return float(found[1])
    return read_duration(text).total_seconds()


def _yes_or_no(text: str) -> bool:
    if text.lower() not in {*YES, *NO}:
        raise InvalidInput(f"{text[:40]!r} is neither yes nor no")
    return text.lower() in YES


FIELDS: Mapping[str, Field] = {
    "min": Field("min_value", _number, number_text),
    "max": Field("max_value", _number, number_text),
    "severity": Field("severity", str.lower, str, "warning"),
    "for": Field("for_seconds", _seconds, duration_text, 0.0),
    "hysteresis": Field("hysteresis", _number, number_text, 0.0),
    "clear": Field("clear_seconds", _seconds, duration_text, 0.0),
    "max-gap": Field("max_gap_seconds", _seconds, duration_text),
    "no-data": Field("no_data_seconds", _seconds, duration_text),
    "instruction": Field("instruction", str, str),
    "owner": Field("owner", str, str),
    "enabled": Field("enabled", _yes_or_no, lambda enabled: YES[0] if enabled else NO[0], True),
}
"""By their names on the command line and in a CSV file."""
