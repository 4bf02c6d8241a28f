"""PURE. What an alert says: its message text, and the JSON of its state, events and history. Contract: docs/mqtt.md."""

from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from alerting.alert import NO_DATA_METRIC, OFFLINE_METRIC, Alert, Place, Rule, Side

UNITS = {"temperature": "°C", "humidity": "%", "pressure": "kPa", "power_consumption": "W", "rpm": "rpm"}
MAX_TEXT = 1_000


class Texts:
    """Message texts in the site's time zone."""

    def __init__(self, template: str, timezone: str) -> None:
        self._template = template
        self._zone = ZoneInfo(timezone)
        self._second = lru_cache(64)(self._read)

    def crossing(self, rule: Rule, place: Place, side: Side, value: float, at: datetime) -> str:
        """Returns the text of a threshold's alert."""
        limit = rule.high if side is Side.HIGH else rule.low
        return self._text(
            name=place.name,
            device=place.device,
            location=place.location,
            metric=rule.metric,
            value=number(value),
            unit=unit_of(place, rule.metric),
            relation="above" if side is Side.HIGH else "below",
            limit=number(limit) if limit is not None else "",
            time=self.time(at),
            severity=rule.severity.value,
        )

    def absence(self, place: Place, what: str, at: datetime) -> str:
        """Returns the text of an alert about silence; `what` is like "is offline"."""
        return _tidy(f"{place.name} ({place.location}): {what}, {self.time(at)}")

    def time(self, at: datetime) -> str:
        """Returns a moment as people of the site read it."""
        return self._second(at.replace(microsecond=0))

    def _read(self, at: datetime) -> str:
        return f"{at.astimezone(self._zone):%Y-%m-%d %H:%M:%S %Z}"

    def _text(self, **fields: str) -> str:
        return _tidy(self._template.format(**fields))


def number(value: float) -> str:
    """Returns a number as people write it."""
    return f"{value:.6g}"


def unit_of(place: Place, metric: str) -> str:
    """Returns the unit: the device's `metadata.units`, else that of the six metrics, else nothing."""
    return (place.units or {}).get(metric) or UNITS.get(metric, "")


def encode_alert(alert: Alert, place: Place, logins: dict[int, str]) -> bytes:
    """Returns the JSON of an alert as it now is, complete in itself."""
    shown: dict[str, Any] = {
        "alert_id": alert.id,
        "version": alert.version,
        "status": alert.status.value,
        "severity": alert.severity.value,
        "kind": alert.kind,
        "device": place.device,
        "device_name": place.name,
        "location": place.location,
        "metric": alert.metric,
        "unit": "" if alert.metric in {OFFLINE_METRIC, NO_DATA_METRIC} else unit_of(place, alert.metric),
        "threshold_id": alert.threshold_id or 0,
        "value": finite(alert.value),
        "peak_value": finite(alert.peak_value),
        "min_value": finite(alert.min_value),
        "max_value": finite(alert.max_value),
        "message": alert.message,
        "triggered_at": alert.triggered_at,
        "acknowledged_at": alert.acknowledged_at,
        "acknowledged_by": logins.get(alert.acknowledged_by) if alert.acknowledged_by is not None else None,
        "resolved_at": alert.resolved_at,
        "stale": alert.stale,
        "flapping": alert.flapping,
        "origin": alert.origin,
    }
    if alert.instruction:
        shown["instruction"] = alert.instruction
    if alert.shelved_until is not None:
        shown["shelved_until"] = alert.shelved_until
    if alert.inhibited_by is not None:
        shown["inhibited_by"] = alert.inhibited_by
    if alert.resolution is not None:
        shown["resolution"] = alert.resolution
    return msgspec.json.encode(shown)


def finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and abs(value) < float("inf") else None


def _tidy(text: str) -> str:
    """An empty unit or location leaves no gap."""
    for gap, less in (("  ", " "), (" ()", ""), (" ,", ","), (" :", ":")):
        while gap in text:
            text = text.replace(gap, less)
    return text.strip()[:MAX_TEXT]
