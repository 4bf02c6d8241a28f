"""PURE. What people may say about a device, and whether it can be so. The database's own checks stand behind these."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, TypedDict
from zoneinfo import ZoneInfo, available_timezones

from mqtt.topics import is_device_id
from storage.refusals import InvalidInput

MAX_LENGTHS = {"name": 255, "type": 100, "location": 255}
FIELDS = ("name", "type", "location", "interval", "timezone", "via", "owner", "metadata")
"""By their names on the command line and in a CSV file."""


class DeviceFields(TypedDict, total=False):
    """The configuration of a device; what is absent stays as it is, or takes its default."""

    name: str
    type: str
    location: str
    interval_s: float | None
    timezone: str | None
    via: str | None
    """Device id of its gateway."""
    owner: str | None
    """Login of its owner."""
    metadata: dict[str, Any] | None


def check_device_id(text: str) -> str:
    """Returns a good device id.

    Raises:
        InvalidInput: it is none.
    """
    if not is_device_id(text):
        raise InvalidInput(f"{text[:80]!r} cannot be a device id: use 1 to 255 of A-Z a-z 0-9 . _ : -")
    return text


def read_fields(texts: Mapping[str, str | None]) -> DeviceFields:
    """Returns fields from texts by the names of FIELDS; None = not said, "" = none (name, type and location stay text).

    Raises:
        InvalidInput: with the first field that cannot be used.
    """
    fields = DeviceFields()
    for key in ("name", "type", "location"):
        if (text := texts.get(key)) is not None:
            fields[key] = _text(key, text)
    if (interval := texts.get("interval")) is not None:
        fields["interval_s"] = _interval(interval) if interval else None
    if (zone := texts.get("timezone")) is not None:
        fields["timezone"] = _zone(zone) if zone else None
    if (via := texts.get("via")) is not None:
        fields["via"] = check_device_id(via) if via else None
    if (owner := texts.get("owner")) is not None:
        fields["owner"] = owner or None
    if (metadata := texts.get("metadata")) is not None:
        fields["metadata"] = _metadata(metadata) if metadata else None
    return fields


def _text(key: str, text: str) -> str:
    if len(text) > MAX_LENGTHS[key]:
        raise InvalidInput(f"{key}: {len(text)} characters are too many, at most {MAX_LENGTHS[key]} fit")
    if not text.isprintable():
        raise InvalidInput(f"{key}: {text[:80]!r} holds characters that cannot be printed")
    return text


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidInput(f"interval: {text[:40]!r} is no number of seconds above 0")
    return seconds


def _zone(text: str) -> str:
    if text not in _zones():
        raise InvalidInput(f"timezone: {text[:80]!r} is not known: use a name of the IANA list, such as Europe/Berlin or UTC")
    return ZoneInfo(text).key


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _metadata(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"metadata: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput('metadata: must be a JSON object such as {"line": 4}')
    if "\\u0000" in json.dumps(value):
        raise InvalidInput("metadata: the character NUL cannot be stored")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
