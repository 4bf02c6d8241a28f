"""PURE. Versions of alerts as messages: the retained state, and for most an event."""

from typing import NamedTuple

from alerting.alert import Entry
from alerting.draft import Draft
from alerting.payloads import encode_alert
from mqtt import topics


class Outgoing(NamedTuple):
    """One version of an alert on its way to the broker: its state, and the topic of its event, if there is one."""

    alert_id: int
    version: int
    topic: str
    payload: bytes
    retain: bool
    event_topic: str | None


def outgoing(draft: Draft, root: str) -> list[Outgoing]:
    """Returns what a draft makes known, in order."""
    return [_outgoing(draft, entry, root) for entry in draft.entries]


def _outgoing(draft: Draft, entry: Entry, root: str) -> Outgoing:
    alert, place = entry.alert, draft.place(entry.alert.device_id)
    payload = encode_alert(alert, place, draft.context.logins)
    if alert.origin == "retrospective":
        return Outgoing(alert.id, alert.version, topics.alert_history(root, place.device), payload, False, None)
    event = topics.alert_event(root, alert.severity.value, place.device) if entry.event else None
    return Outgoing(alert.id, alert.version, topics.alert_state(root, alert.topic), payload, True, event)
