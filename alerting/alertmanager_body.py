"""PURE. Alerts as the API v2 of Prometheus Alertmanager takes them: POST /api/v2/alerts.

Alertmanager knows an alert by its labels alone, so a label holds only what does not change while an alert is open. Severity and
location are the exceptions: routes need them. Whoever edits one of them makes it another alert there: the one under the old
labels ends, in the same request, and routes and silences are asked again. All else is an annotation.
"""

from datetime import datetime, timedelta
from typing import Any

from alerting.alert import NO_DATA, OFFLINE, THRESHOLD, Alert, Place
from alerting.payloads import finite, number, unit_of

HOLDS = timedelta(minutes=10)
"""How long an alert goes on without us: ten re-sends. Longer than a failover of the database or a restart of the host, after
which nobody is to be told "resolved" and paged again; and if factoryd never comes back, nothing fires for ever."""

NAMES = {THRESHOLD: "ThresholdCrossed", OFFLINE: "DeviceOffline", NO_DATA: "NoData"}

Labels = dict[str, str]
Entry = dict[str, Any]
"""One element of the request's body."""


def fires(alert: Alert) -> bool:
    """Tells whether people are to be told of it: not while it is shelved, or a worse one on the same metric speaks for it."""
    return alert.open and alert.inhibited_by is None and alert.shelved_until is None


def entries(alert: Alert, place: Place, site: str, now: datetime, fired: Labels | None = None) -> list[Entry]:
    """Returns what Alertmanager is to be told of an alert.

    Args:
        alert: its newest version.
        place: its device.
        site: `mqtt.root`: numbers of alerts and names of devices are unique within it.
        now: aware UTC.
        fired: the labels under which it was last told that this alert fires, if it is known.

    Returns:
        Nothing for one that never fired, and for what late readings have shown; else an entry, after another one that ends the
        alert under its old labels if they have changed.
    """
    if alert.origin != "live":
        return []
    labels = labels_of(alert, place, site)
    if not fires(alert):
        was_told = fired is not None or alert.announced
        return [_entry(alert, place, fired or labels, alert.resolved_at or now)] if was_told else []
    firing = _entry(alert, place, labels, now + HOLDS)
    return [firing] if fired in (None, labels) else [_entry(alert, place, fired, now), firing]


def labels_of(alert: Alert, place: Place, site: str) -> Labels:
    """Returns the identity of an alert in Alertmanager. It drops an empty label itself."""
    return {
        "alertname": NAMES.get(alert.kind, alert.kind),
        "alert_id": str(alert.id),
        "site": site,
        "device": place.device,
        "location": place.location,
        "metric": alert.metric,
        "severity": alert.severity.value,
        "kind": alert.kind,
        "threshold_id": str(alert.threshold_id or 0),
    }


def _entry(alert: Alert, place: Place, labels: Labels, ends_at: datetime) -> Entry:
    return {
        "labels": labels,
        "annotations": _annotations(alert, place),
        "startsAt": alert.triggered_at,
        "endsAt": max(ends_at, alert.triggered_at),
    }


def _annotations(alert: Alert, place: Place) -> dict[str, str]:
    unit = unit_of(place, alert.metric) if alert.kind == THRESHOLD else ""
    values = {name: finite(getattr(alert, name)) for name in ("value", "peak_value", "min_value", "max_value")}
    return {
        "summary": alert.message,
        "device_name": place.name,
        "status": alert.status.value,
        "version": str(alert.version),
        **{name: f"{number(value)} {unit}".strip() for name, value in values.items() if value is not None},
        **({"instruction": alert.instruction} if alert.instruction else {}),
        **({"resolution": alert.resolution} if alert.resolution else {}),
        **{name: "true" for name in ("stale", "flapping") if getattr(alert, name)},
    }
